"""Vocabularies: build a tokenizer from the files of each format."""
