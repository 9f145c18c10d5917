"""What commands ask of a model, in their own process or of a server: no HTTP."""
