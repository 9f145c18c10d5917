"""Shade a word by a number: with a background, or without colors with a shade character after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from llmcli.views.terminal.colors import AMOUNT_STYLES, PROBABILITY_STYLES

Scale: TypeAlias = Sequence[tuple[float, str]]
"""(lower bound of a share, style), from high to low shares."""
# One for each step of a scale.
_SHADES = "█▓▒░ "


def shows_bands(console: Console) -> bool:
    """Whether the console has enough colors for the backgrounds."""
    return console.color_system in ("256", "truecolor")


def shaded(label: str, share: float, *, colored: bool, scale: Scale = AMOUNT_STYLES) -> Text:
    """`label` and one more cell: with a background for `share` (0 to 1), or the shade character if not `colored`."""
    step = next(step for step, (least, _) in enumerate(scale) if share >= least or least == 0)
    return Text(f"{label} ", style=scale[step][1]) if colored else Text(f"{label}{_SHADES[step]}")


def clipped(label: str, width: int) -> str:
    """`label` in exactly `width` cells, cut with an ellipsis or padded with spaces."""
    if cell_len(label) > width:
        label = set_cell_size(label, width - 1).rstrip() + "…"
    return set_cell_size(label, width)


class ProbabilityLegend:
    """A one-line legend of the backgrounds or shades of probabilities."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colored = shows_bands(console)
        line = Text.assemble(("probability: ", "dim"))
        for (least, style), shade in zip(PROBABILITY_STYLES, _SHADES, strict=True):
            words = f"{100 * least:.0f}%+" if least else "less"
            if colored:
                line.append(f" {words} ", style).append(" ")
            elif least:
                line.append(shade).append(f" {words}  ", "dim")
        line.rstrip()
        yield line
