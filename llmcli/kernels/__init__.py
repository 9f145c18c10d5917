"""Fast paths for the model's forward pass: each computes the readable model's logits, on the same weights and cache."""
