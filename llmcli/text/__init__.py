"""Text and tokens: tokenizers, chat templates, incremental detokenization, and stop strings."""
