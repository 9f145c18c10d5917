"""Checkpoints in the layouts of Mistral and Meta: `params.json` and `consolidated.*` weights."""
