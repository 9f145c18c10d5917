"""Measures of a model on texts: perplexity, choices, needles, cost, and the difference of two models."""
