"""The text of a reply as its tokens come, its thought, and the whole reply."""
