"""The CPU kernel: C code, its build, and the step that calls it."""
