"""Shared by all inspections: hooks, activations, ablations, tokens and text spans."""
