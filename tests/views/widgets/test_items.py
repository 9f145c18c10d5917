"""Items are not broken, unless one alone is too long."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.items import Items
from tests.support.terminal.drawing import drawn

ITEMS = Items([Text(f"item {number}") for number in range(4)])


def test_lines_are_broken_between_items() -> None:
    assert drawn(ITEMS, 80) == "item 0  item 1  item 2  item 3"
    assert drawn(ITEMS, 29) == "item 0  item 1  item 2\nitem 3"
    assert drawn(ITEMS, 6) == "item 0\nitem 1\nitem 2\nitem 3"
    assert drawn(Items([Text("世界 long"), Text("b")]), 5) == "世界\nlong\nb"
    assert drawn(Items([]), 5) == ""


def test_a_column_is_as_wide_as_its_items() -> None:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column()
    table.add_column()
    table.add_row(ITEMS, "x")
    assert drawn(table, 24) == "item 0  item 1  item 2 x\nitem 3"
