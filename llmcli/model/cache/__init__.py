"""Key-value caches: of one text, of several, and of branches with a common beginning."""
