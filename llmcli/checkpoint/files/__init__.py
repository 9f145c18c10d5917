"""Files of a model folder: which belong to the model, and reading them safely."""
