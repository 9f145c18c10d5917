"""The terminal: what it can show, safe text, progress, live regions and export."""
