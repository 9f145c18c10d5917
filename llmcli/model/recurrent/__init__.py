"""Layers that remember the text in a state of fixed size instead of keys and values."""
