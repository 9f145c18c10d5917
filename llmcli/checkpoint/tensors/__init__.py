"""Tensors in files: dtypes, ggml blocks, reading parts of rows, and repacking."""
