"""Speculative decoding: drafts, their acceptance and their length."""
