"""Chat templates as programs: compiled in a sandbox, with a budget, and what their variables are."""
