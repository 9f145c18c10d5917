"""`llm bench`: what this machine, this model and this program reach, beside its peers."""
