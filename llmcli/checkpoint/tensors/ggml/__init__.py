"""Block formats of ggml, as GGUF files store them."""
