"""Fast paths of the model's step: each computes what the readable model computes, on the same weights and cache."""
