"""Model families: how `config.json` of each becomes our configuration, and what is refused."""
