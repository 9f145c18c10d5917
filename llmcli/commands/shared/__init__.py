"""What several commands need: options, loading a model, reading a prompt, settings files."""
