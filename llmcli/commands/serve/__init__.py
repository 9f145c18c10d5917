"""`llm serve`, and commands for servers that run."""
