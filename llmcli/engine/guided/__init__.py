"""Guided decoding: replies held to a JSON schema, a regular expression or a grammar."""
