"""What `llm chat` consists of: the keyboard, the session, and the slash commands by what they are about."""
