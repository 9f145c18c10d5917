"""Find models by name and fetch them: the hub, its cache, aliases, the model store and the starter model."""
