"""The Triton kernels themselves."""
