"""`llm generate`: one reply, with all ways to shape and record it."""
