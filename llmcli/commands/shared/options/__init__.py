"""Options that several commands share: a frozen dataclass for each group of flags, and what makes flags of it."""
