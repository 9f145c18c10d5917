"""Checkpoints in the format of transformers: safetensors or torch files with a `config.json`."""
