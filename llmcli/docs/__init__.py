"""The manual: a page of Markdown for each topic, and finding text in it."""
