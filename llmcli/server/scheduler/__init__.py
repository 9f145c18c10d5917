"""The one thread that computes: it takes work from all connections and advances it together."""
