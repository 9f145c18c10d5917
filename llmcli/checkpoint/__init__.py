"""From a name or path to a model ready to run: find, read, check and load its files."""
