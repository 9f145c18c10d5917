"""Vocabularies: building a tokenizer from the files of each format."""
