"""Quantized checkpoints: GPTQ, AWQ, compressed-tensors, bitsandbytes, FP8 and FP4."""
