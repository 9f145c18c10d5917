"""Code shared by several commands: options, loading a model, reading a prompt, settings files."""
