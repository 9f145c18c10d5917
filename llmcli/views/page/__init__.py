"""One HTML page that draws a command's JSON: `page.py` builds it, the scripts and styles beside it draw it."""
