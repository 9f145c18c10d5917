"""A reply on the screen: streaming text, Markdown, tokens with probabilities, JSON and statistics."""
