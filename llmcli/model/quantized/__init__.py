"""Quantized matrices in memory: their layout, their products and how they are made."""
