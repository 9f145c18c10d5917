"""Text and tokens: tokenizers, chat templates, and turning a stream of tokens back into text."""
