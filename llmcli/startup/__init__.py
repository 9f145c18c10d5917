"""Everything that shortens the start of the program."""
