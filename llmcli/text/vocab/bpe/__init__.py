"""Byte-pair encodings: GPT-2 files, tiktoken and tekken ranks, pre-tokenizers."""
