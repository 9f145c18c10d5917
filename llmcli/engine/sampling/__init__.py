"""Sampling: settings, filters of logits and probabilities, and the draw of the next token."""
