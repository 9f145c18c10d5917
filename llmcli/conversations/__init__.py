"""Saved conversations: their records, files and folder, and the state that results from them."""
