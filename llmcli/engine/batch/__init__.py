"""Several replies decoded together."""
