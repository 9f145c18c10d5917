"""The residual stream: embeddings, logit lens and logit attribution."""
