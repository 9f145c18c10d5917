"""Checkpoints in the format of transformers: safetensors and torch files with `config.json`."""
