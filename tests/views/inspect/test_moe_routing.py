from __future__ import annotations

import pytest

from llmcli.inspection.feed_forward.moe_routing import ExpertRouting
from llmcli.views.inspect.moe_routing import ExpertsView
from tests.support.inspections.moe_routing import FIRST, SECOND, TOKENS, layer
from tests.support.terminal.drawing import drawn, drawn_in_color, without_color

ALL = """
blocks 0, 3: dense, every token goes through all of it
block  entropy bits  load
    1  1.50   75.0%  █▆·▃
    2  1.50   75.0%  ·▆█▃
2 of 4 experts for each token. Load of each expert, from
expert 0: █ is 50.0% of the slots, · none, an even load
25.0%. Entropy in bits, and relative to an even load.

the expert with the greatest weight, in each block
block      1 2
0  <s>     0 2
1  ␣Paris  0 3
2  ␛⏎      0 1
""".strip("\n")
ONE = """
blocks 0, 3: dense, every token goes through all of it
block  entropy bits  load
    2  1.50   75.0%  ·▆█▃
2 of 4 experts for each token. Load of each expert, from
expert 0: █ is 50.0% of the slots, · none, an even load
25.0%. Entropy in bits, and relative to an even load.

experts and their weights in block 2
0  <s>     ·▒▓·  2 1.50  1 1.00
1  ␣Paris  ··░█  3 2.00  2 0.50
2  ␛⏎      ·▓▓·  1 1.25  2 1.25
""".strip("\n")


def test_loads_of_all_blocks_and_the_strongest_expert_of_each_token() -> None:
    assert drawn(ExpertsView(ExpertRouting(TOKENS, (FIRST, SECOND), (0, 3))), 60) == ALL


def test_one_block_has_all_weights() -> None:
    view = ExpertsView(ExpertRouting(TOKENS, (SECOND,), (0, 3)))
    assert drawn(view, 60) == without_color(drawn_in_color(view, 60)) == ONE
    assert drawn(view, 40).splitlines()[-1] == "2  ␛⏎      ·▓▓·  1 1.25  2 1.25"


def test_many_experts_and_blocks_are_folded() -> None:
    row = [(expert, 0.125) for expert in range(0, 64, 8)]
    layers = tuple(layer(block, 64, [row] * 3) for block in range(30))
    text = drawn(ExpertsView(ExpertRouting(TOKENS, layers, ())), 40)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 40
    bars = [line[21:] for line in lines[1 : lines.index("8 of 64 experts for each token. Load of")]]
    assert "".join(bars) == ("█" + "·" * 7) * 8 * 30
    heads = [line.split()[1:] for line in lines if line.startswith("block  ") and "load" not in line]
    assert [int(number) for head in heads for number in head] == list(range(30))
    alone = drawn(ExpertsView(ExpertRouting(TOKENS, layers[:1], ())), 40).splitlines()
    assert max(map(len, alone)) <= 40
    words = " ".join(alone).split("block 0")[1]
    assert words.count("0.12") == 24, "the lane has no room, the weights are all there"


@pytest.mark.parametrize("weight", [0.0, 1e-9, 2.5])
def test_a_chosen_expert_is_always_visible(weight: float) -> None:
    rows = [[(0, 2.5), (1, weight)]] * 3
    last = drawn(ExpertsView(ExpertRouting(TOKENS, (layer(0, 4, rows),), ())), 60).splitlines()[-1]
    assert last.split()[2].count("·") == 2
