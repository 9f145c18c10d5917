"""Feed-forward networks: neurons, and routing to experts."""
