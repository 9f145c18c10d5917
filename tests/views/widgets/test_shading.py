from __future__ import annotations

import pytest
from rich.cells import cell_len

from llmcli.views.widgets.shading import ShadeLegend, clipped, shaded
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
    assert drawn(ShadeLegend("probability"), 40) == "probability: ░ 5%+ ▒ 20%+ ▓ 50%+ █ 90%+"
    assert "48;2;255;221;120m " in drawn(ShadeLegend("probability"), 40, "truecolor")
