"""Drawings of experiments on a model and of comparisons, and their tables for readers without scripts."""
