"""`llm doctor`: checks of a machine, its settings and the files of a model."""
