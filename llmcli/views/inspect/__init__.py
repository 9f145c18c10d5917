"""Views of the `llm inspect` commands, of `llm score`, `llm compare` and `llm trace`."""
