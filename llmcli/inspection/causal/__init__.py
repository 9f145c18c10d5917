"""Cause and effect: restoring activations, and leaving out parts of a prompt."""
