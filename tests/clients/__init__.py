"""Scripts that run other programs as clients of the server, by hand: each needs an environment of its own."""
