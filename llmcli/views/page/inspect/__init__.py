"""Drawings of what happens inside a model, and their tables for readers without scripts."""
