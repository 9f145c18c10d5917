"""`llm bench`: the speed and memory of this program for a model on this machine, compared with other programs."""
