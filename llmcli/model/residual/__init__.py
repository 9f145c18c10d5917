"""Additions to the residual stream of Gemma 3n and 4: several streams, a path beside attention, vectors per layer."""
