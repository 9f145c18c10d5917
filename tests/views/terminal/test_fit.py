"""Lines fit a width in cells."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from llmcli.views.terminal.fit import hanging, shortened


@pytest.mark.parametrize("text", ["", "abc", "世界世界世", "a世界世界", "🙂🙂🙂🙂", "e\u0301" * 6])
@pytest.mark.parametrize("columns", [1, 2, 4, 5, 10])
def test_a_text_is_cut_to_cells(text: str, columns: int) -> None:
    cut = shortened(text, columns)
    assert cell_len(cut) <= columns
    assert cut == text if cell_len(text) <= columns else cut.endswith("…")


def test_further_lines_hang_below_the_first() -> None:
    assert hanging("/why  ", "all about a token", 14) == "/why  all\n      about a\n      token"
    assert hanging("/why  ", "short", 80) == "/why  short"
    # A word that is too long stays whole, so that it can be copied.
    assert hanging("a  ", "/a/long/path x", 9) == "a  /a/long/path\n   x"
    assert hanging("a long head  ", "text here", 12) == "a long head\n    text\n    here"
