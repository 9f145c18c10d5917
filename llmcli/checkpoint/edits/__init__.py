"""Edits of a model on disk: their files, where they are kept, and merging them into a checkpoint."""
