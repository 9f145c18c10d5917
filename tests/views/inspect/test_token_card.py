from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from llmcli.inspection.residual.logit_attribution import BlockLogit
from llmcli.inspection.token_card import CardToken
from llmcli.views.inspect.token_card import CardView, signed_bar
from tests.support.inspections.token_card import CARD, VERIFY
from tests.support.terminal.drawing import drawn


def test_the_whole_card() -> None:
    assert drawn(CardView(replace(CARD, verify=VERIFY)), 64) == (
        "token 6 ␣Paris 75.0%, rank 1, entropy 2.65 bits, after ␣is\n"
        "\n"
        "could be\n"
        ">1 ␣Paris 75.0% ██████\n"
        " 2 ␣[/b]  <0.1%\n"
        "\n"
        "read\n"
        "␣France 32% at 4  ␣of 24% at 3\n"
        "sink 60%, itself 11% of all attention\n"
        "\n"
        "blocks (raw lens)\n"
        "block says                  rank KL bits\n"
        "  emb ␣is    40.0% ███▎       99   28.85\n"
        "    0 ,      40.0% ███▎       50   27.41\n"
        "    2 ␣Paris 40.0% ███▎        1   24.53\n"
        "\n"
        "logit\n"
        "7.40 = -3.60 mean +0.10 embedding +9.00 attention +1.90\n"
        "feed-forward\n"
        "block attention               feed-fwd\n"
        "    0     +0.00       │          +0.50       │▌\n"
        "    1     +6.00       │██████    -1.50     ▐█│\n"
        "    2     +3.00       │███       +2.90       │███\n"
        "\n"
        "heads\n"
        "head logit attends to\n"
        "1.4  +2.48 ␣France 88% at 4\n"
        "2.0  -1.97\n"
        "\n"
        "neurons\n"
        "neuron logit fires promotes\n"
        "1.1005 +1.40 -22.4 ␣capitals\n"
        "\n"
        "␣Paris 75.0%, and with these switched off\n"
        "off                        then            surprise\n"
        "head 1.4                  39.5% ███▏     +0.93 bits\n"
        "head 0.2, drawn at random 75.0% ██████   +0.00 bits\n"
        "neuron 1.1005              0.0%\n"
        "all 3 of them             10.0% ▊        +2.91 bits\n"
        "3 drawn at random         80.0% ██████▍  -0.09 bits"
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("color", [None, "truecolor"])
def test_nothing_is_cut_at_any_width(width: int, color: None) -> None:
    view = drawn(CardView(replace(CARD, verify=VERIFY)), width, color)
    assert "…" not in view
    if color is None:
        assert max(map(cell_len, view.splitlines())) <= width


def test_token_card_lists_the_strongest_blocks_and_sums_the_others() -> None:
    blocks = tuple(BlockLogit(block, 0.02 * block, -1.0 if block % 4 == 0 else 0.25) for block in range(24))
    made_of = replace(CARD.attribution, blocks=blocks)
    lines = drawn(CardView(replace(CARD, attribution=made_of))).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  block attention"))
    shown = [line.split()[0] for line in lines[start + 1 : start + 10]]
    assert shown == ["0", "4", "8", "12", "16", "20", "22", "23", "16"]
    rest = next(line for line in lines if line.startswith("16 more")).split()
    others = [block for block in blocks if block.block not in (0, 4, 8, 12, 16, 20, 22, 23)]
    assert float(rest[2]) == pytest.approx(sum(block.attention for block in others), abs=0.006)


def test_per_layer_embeddings_have_a_column_where_a_model_has_them() -> None:
    blocks = (BlockLogit(0, 0.5, 0.25, -0.75), BlockLogit(1, 1.0, 0.25, 0.5))
    view = drawn(CardView(replace(CARD, attribution=replace(CARD.attribution, blocks=blocks))), 140)
    assert "-0.25 per-layer embeddings" in view
    lines = [line.split() for line in view.splitlines()]
    first = next(number for number, line in enumerate(lines) if line[:2] == ["block", "attention"]) + 1
    assert "per-layer" in lines[first - 1]
    assert [value for value in lines[first] if "." in value] == ["+0.50", "+0.25", "-0.75"]


def test_token_card_names_unusual_cases() -> None:
    made_of = replace(CARD.attribution, bias=0.31, rounding=-0.02, softcap=30.0)
    token = CardToken(6, 9, " Rome", b" Rome", 0.0002, 41, stands=False)
    view = drawn(CardView(replace(CARD, token=token, attribution=made_of, read=None)), 140)
    assert "+1.90 feed-forward +0.31 bias -0.02 rounding, before the soft cap of 30" in view
    assert view.startswith("token 6 ␣Rome <0.1%, rank 41, entropy 2.65 bits, after ␣is (not in the text)")
    assert ">41 ␣Rome  <0.1%" in view
    assert "\nread\n" not in view


@pytest.mark.parametrize(
    ("share", "bar"),
    [(0, "    │    "), (1, "    │████"), (-1, "████│    "), (0.4, "    │█▌  "), (-0.4, "  ▐█│    "), (9, "    │████")],
)
def test_signed_bars(share: float, bar: str) -> None:
    assert signed_bar(share, 4).plain == bar


def test_recurrent_blocks_are_not_called_attention() -> None:
    card = replace(CARD, attribution=replace(CARD.attribution, recurrent=(0, 2)))
    shown = drawn(CardView(card), 100)
    assert "+9.00 attention and recurrent" in shown
    assert "block mixer" in shown
    assert "recurrent" not in drawn(CardView(CARD), 100)
