"""What the user sees: Rich renderables and JSON, drawn from plain values."""
