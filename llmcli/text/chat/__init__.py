"""Conversations as prompts: messages, their rendering with every piece traced, and how a turn ends."""
