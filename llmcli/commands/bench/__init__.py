"""`llm bench`: its commands and its progress display."""
