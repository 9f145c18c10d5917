"""Views of inspections: one for each `llm inspect` command and its relatives."""
