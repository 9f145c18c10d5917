"""What each filter of sampling does to logits and probabilities: pure functions, applied in order by the `Sampler`."""
