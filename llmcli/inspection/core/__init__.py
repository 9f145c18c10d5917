"""What all inspections share: hooks, activations, ablations, tokens and text spans."""
