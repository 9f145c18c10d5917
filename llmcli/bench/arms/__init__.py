"""The programs that a benchmark compares, each run in a separate process."""
