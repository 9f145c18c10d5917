"""Edits of a model on disk: their files, the folder of stored edits, and merging edits into a checkpoint."""
