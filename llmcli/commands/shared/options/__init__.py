"""Options that several commands share: a frozen dataclass for each group of flags, and the code that declares them."""
