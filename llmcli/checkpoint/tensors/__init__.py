"""Reading tensors from files: their dtypes, ggml blocks, parts of rows, and repacking."""
