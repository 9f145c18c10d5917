"""Tool calls in a model's reply: the form in which its chat template writes them, and reading them as they come."""
