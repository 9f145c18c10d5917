"""Shorten the start of commands that run a model: load torch ahead and in part, and read files meanwhile."""
