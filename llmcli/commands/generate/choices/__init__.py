"""`llm generate --choices`: the most probable of given answers."""
