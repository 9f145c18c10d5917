"""Conversations as prompts: messages, rendering with every piece traced to its source, and the end of a turn."""
