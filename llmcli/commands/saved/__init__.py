"""Commands on saved conversations: `llm chats`, `llm log` and `llm stats`."""
