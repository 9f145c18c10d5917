"""Finding models by name and fetching them: the hub, its cache, aliases and the starter model."""
