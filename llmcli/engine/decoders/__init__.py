"""Token sources: the ways in which the next token of a reply comes about."""
