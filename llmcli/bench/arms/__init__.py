"""The programs that a benchmark compares, each in a process that it starts."""
