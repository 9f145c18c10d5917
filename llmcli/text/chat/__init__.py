"""Chat templates: rendering messages safely, and what a template says about the end of a turn."""
