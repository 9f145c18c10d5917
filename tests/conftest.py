"""Settings that hold for every test."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run: a change is judged by its own merits, not by a new draw.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
