"""Chat templates as programs: compiled in a sandbox, run with a budget, and their variables."""
