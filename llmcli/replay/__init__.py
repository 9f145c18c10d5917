"""Records of runs, and comparing a new run with one."""
