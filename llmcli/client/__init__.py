"""Commands that use a model which a running server holds. Nothing here imports torch or the tokenizer."""
