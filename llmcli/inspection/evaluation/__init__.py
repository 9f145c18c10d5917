"""Evaluations: perplexity, multiple choice, needle in a haystack, cost, and comparison of two models."""
