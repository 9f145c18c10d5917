"""One file per command: from options to calls of the library, and from its values to views."""
