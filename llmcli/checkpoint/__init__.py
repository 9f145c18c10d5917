"""From a name or a path to a model ready to run: finding, reading, checking and loading its files."""
