"""Inside the feed-forward blocks: neurons and the routing to experts."""
