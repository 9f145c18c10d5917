from __future__ import annotations

import pytest

from llmcli.views.inspect.needle import NeedleView
from tests.support.inspections.needle import RESULT
from tests.support.terminal.drawing import drawn, drawn_in_color, without_color

WIDE = """
20 facts in 181 tokens, one asked for: 30 texts a depth
 depth  0                          1    mean     95 %  right
   0 %   ┊                    ├──●┤    90.0%    82-96   90 %
12.5 %   ├●────┤                       10.0%     5-25   10 %
 100 %   ┊                         ●  100.0%  100-100  100 %
● mean probability of the right word among the 20, ├─┤ 95%
confidence range, ┊ chance 5.0%; right: how often it is the
most probable
Example question: What is the secret word of Bob? The secret
word of Bob is (tiger)
""".strip("\n")
NARROW = """
20 facts in 181 tokens, one asked for:
30 texts a depth
 depth  0      1    mean     95 %  right
   0 %  ┊     ├●   90.0%    82-96   90 %
12.5 %  ●─┤        10.0%     5-25   10 %
 100 %  ┊      ●  100.0%  100-100  100 %
● mean probability of the right word
among the 20, ├─┤ 95% confidence range,
┊ chance 5.0%; right: how often it is
the most probable
Example question: What is the secret
word of Bob? The secret word of Bob is
(tiger)
""".strip("\n")


def test_a_line_for_each_depth() -> None:
    assert drawn(NeedleView(RESULT), 60) == WIDE
    assert drawn(NeedleView(RESULT), 40) == NARROW
    assert without_color(drawn_in_color(NeedleView(RESULT), 60)) == WIDE


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_no_width_breaks_a_line_of_the_plot(width: int) -> None:
    lines = drawn(NeedleView(RESULT), width).splitlines()
    assert sum(line.lstrip().startswith(("0 %", "12.5 %", "100 %")) for line in lines) == 3
    assert max(map(len, lines)) <= width
