"""Checkpoints in the makers' own formats: `params.json` with their weights."""
