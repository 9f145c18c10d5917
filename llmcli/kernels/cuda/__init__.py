"""The CUDA step: support, weights, launches and graph capture."""
