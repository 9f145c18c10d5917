"""The text of a reply: decoded token by token, split into thought and answer, and collected."""
