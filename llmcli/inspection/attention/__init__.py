"""Attention: summaries, patterns of single heads, and head scores."""
