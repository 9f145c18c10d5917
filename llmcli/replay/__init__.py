"""Records of runs, and replaying a run to compare it with its record."""
