"""`llm doctor`: checks of the machine, the settings and the files of a model."""
