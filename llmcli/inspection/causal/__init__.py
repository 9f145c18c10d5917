"""Causal experiments: restoring activations, and leaving out parts of a prompt."""
