"""Fit lines into a width in cells: wide characters and emoji take two, combining marks none."""

from __future__ import annotations

import re


def shortened(text: str, columns: int) -> str:
    """`text` in at most `columns` cells, cut with an ellipsis."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= columns:
        return text
    return f"{set_cell_size(text, max(columns - 1, 0)).rstrip()}…"


def hanging(head: str, text: str, columns: int) -> str:
    """`head` followed by `text`, whose further lines are indented below its first; broken at spaces."""
    from rich.cells import cell_len

    indent = cell_len(head)
    if indent * 2 > columns:
        # No room beside it.
        indent, head = 4, f"{head.rstrip()}\n    "
    lines = [""]
    for word in re.findall(r"\s*\S+", text):
        if lines[-1] and indent + cell_len(lines[-1] + word) > columns:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return head + ("\n" + " " * indent).join(lines)
