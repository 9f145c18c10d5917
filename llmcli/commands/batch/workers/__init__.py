"""Batches by several workers, each with a model: processes of this machine, or actors of Ray."""
