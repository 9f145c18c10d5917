"""HTTP without knowledge of any API: sockets, limits, security, errors and streams."""
