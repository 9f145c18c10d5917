"""`llm batch`: many prompts of a file, answered together."""
