"""Where attention goes: summaries, patterns and scores of heads."""
