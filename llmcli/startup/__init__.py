"""What shortens the start of commands that run a model: loading torch ahead and in part, and files meanwhile."""
