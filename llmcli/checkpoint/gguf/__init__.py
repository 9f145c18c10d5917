"""GGUF files: header, metadata, configuration and tensors."""
