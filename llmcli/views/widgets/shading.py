"""How much, behind a word: a background from dark blue to amber, or where there are no colors a shade after it."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

# (from this share of the whole on, shade, style): the order can be told by lightness alone.
_BANDS = (
    (0.9, "█", "black on #ffdd78"),
    (0.5, "▓", "black on #c9a24b"),
    (0.2, "▒", "white on #5b6b7a"),
    (0.05, "░", "white on #27486b"),
    (0.0, " ", ""),
)


def shows_bands(console: Console) -> bool:
    """The console has colors enough for backgrounds to be told apart."""
    return console.color_system in ("256", "truecolor")


def shaded(label: str, share: float, *, colored: bool) -> Text:
    """`label` and one more cell, which is the shade of `share` (0 to 1), or as the label's background is."""
    shade, style = next((shade, style) for least, shade, style in _BANDS if share >= least or least == 0)
    return Text(f"{label} ", style=style) if colored else Text(f"{label}{shade}")


def clipped(label: str, width: int) -> str:
    """`label` in exactly `width` cells, cut with an ellipsis or filled with spaces."""
    if cell_len(label) > width:
        label = set_cell_size(label, width - 1).rstrip() + "…"
    return set_cell_size(label, width)


class ShadeLegend:
    """What the backgrounds or shades mean, in one line."""

    def __init__(self, of: str) -> None:
        self._of = of

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colored = shows_bands(console)
        line = Text.assemble((f"{self._of}: ", "dim"))
        for least, shade, style in reversed(_BANDS[:-1]):
            line.append(" " if colored else shade, style if colored else "")
            line.append(f" {100 * least:.0f}%+ ", "dim")
        line.rstrip()
        yield line
