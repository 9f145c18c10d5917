"""`llm batch`: answer many prompts of a file together."""
