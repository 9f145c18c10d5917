"""Token sources: the ways to choose the next token of a reply."""
