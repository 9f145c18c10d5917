"""Changing a fact that a model holds, by an update of rank one, and the proof of what it did."""
