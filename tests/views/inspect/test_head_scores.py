from __future__ import annotations

from dataclasses import replace

import pytest

from llmcli.inspection.attention.head_scores import Head, HeadAblation, HeadAtlas
from llmcli.views.inspect.head_scores import heads_view
from tests.support.inspections.head_scores import ATLAS, HEADS, score
from tests.support.terminal.drawing import Colors, drawn, lines

DRAWN = """\
4 texts of random tokens: after BOS, 50 tokens twice; rows
are blocks, columns heads
previous             duplicate
the token before     the same token earlier
   0 1                  0 1
 0 ██                 0
 1                    1

induction            sink
the token after it   the first position
   0 1                  0 1
 0                    0   ▒▒
 1 ░░                 1 ▓▓
0     ░░░░▒▒▒▒▓▓▓▓████ 1 of a head's attention

strongest heads, as block.head with the share of their
attention
previous  duplicate  induction  sink
0.0 0.90  n/a        1.0 0.30   1.0 0.62
0.1 0.10             1.1 0.00   0.1 0.50
1.0 0.00                        1.1 0.10
1.1 0.00                        0.0 0.00

the same, as shares of the attention not on the first
position
previous  duplicate  induction
0.0 0.90  n/a        1.0 0.80
0.1 0.20             1.1 0.00
1.0 0.00
1.1 0.00

2 of 4 heads put more than 40% of their attention on the
first position."""


def test_head_atlas_without_colors() -> None:
    assert drawn(heads_view(ATLAS), 60) == DRAWN


def test_head_ablation_is_shown_with_its_control() -> None:
    ablation = HeadAblation((Head(1, 0), Head(1, 1)), 2.5, 10.25, (2.0, 3.0, 3.25))
    assert drawn(heads_view(replace(ATLAS, ablation=ablation)), 60).endswith("""
loss on the second repeat, bits a token
all heads on                              3.61
without 1.0 1.1                          14.79  +11.18
without 2 other heads                     3.97   +0.36
The last line is a mean: 2.89 to 4.69 in 3 random draws.""")


def test_heads_view_names_a_given_text_and_learned_sinks() -> None:
    heads = tuple(replace(head, learned_sink=0.25) for head in HEADS)
    text = drawn(heads_view(HeadAtlas(7, 1, False, None, heads)), 200)
    assert text.startswith("a text: 7 tokens twice;")
    assert "Learned sinks, which are no position, take 25% on average" in text


@pytest.mark.parametrize("colors", [None, "truecolor"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_large_models_fit_any_width(width: int, colors: Colors | None) -> None:
    heads = tuple(score(layer, head, 0.5, 0.5, 0.5) for layer in range(64) for head in range(64))
    plain = lines(heads_view(HeadAtlas(50, 4, True, 0, heads)), width)
    assert max(map(len, plain)) <= width
    # Half blocks show two blocks per line.
    longest = len(lines(heads_view(HeadAtlas(50, 4, True, 0, heads)), width, colors))
    assert longest <= len(plain) - (4 * 30 if colors and width < 120 else 0)
