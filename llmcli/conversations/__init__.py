"""Conversations that outlast the program: what is written down of them, how it is read again, and where it lies."""
