from __future__ import annotations

import pytest
from rich.cells import cell_len

from llmcli.views.terminal.colors import PROBABILITY_STYLES
from llmcli.views.widgets.shading import ProbabilityLegend, clipped, shaded
from tests.support.terminal.drawing import drawn


@pytest.mark.parametrize(
    ("share", "shade"), [(0, " "), (0.049, " "), (0.05, "░"), (0.2, "▒"), (0.5, "▓"), (0.9, "█"), (1, "█"), (-1, " ")]
)
def test_shades_grow_with_the_share(share: float, shade: str) -> None:
    assert shaded("x", share, colored=False).plain == f"x{shade}"
    colored = shaded("x", share, colored=True)
    assert (colored.plain, bool(colored.style)) == ("x ", shade != " ")


@pytest.mark.parametrize("label", ["", "a", "␣capital", "␣capitals", "世界世界世", "a世界世界"])
def test_labels_are_clipped_to_cells(label: str) -> None:
    cut = clipped(label, 8)
    assert cell_len(cut) == 8
    assert cut.rstrip() == label if cell_len(label) <= 8 else cut.rstrip().endswith("…")


def test_the_legend_fits_a_narrow_terminal() -> None:
    assert drawn(ProbabilityLegend(), 45) == "probability: █ 90%+  ▓ 50%+  ▒ 20%+  ░ 5%+"
    assert drawn(ProbabilityLegend(), 20).startswith("probability: █ 90%+")
    for color in ("0;0;175", "0;95;135", "95;95;135", "175;135;95", "255;175;0"):
        assert f"48;2;{color}m " in drawn(ProbabilityLegend(), 60, "truecolor")


def test_probabilities_go_from_blue_to_amber() -> None:
    certain, surprise = (shaded("x", share, colored=True, scale=PROBABILITY_STYLES) for share in (1, 0))
    assert (certain.style, surprise.style) == ("#ffffff on #0000af", "#000000 on #ffaf00")
