"""Key-value caches: for one text, for a batch of texts, and for branches with a common beginning."""
