"""`llm chat`: the keyboard, the session, and the slash commands by topic."""
