"""Attention: queries, keys and values, rotary positions, the softmax, and the latent form of DeepSeek-V2."""
