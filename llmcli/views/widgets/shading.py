"""Shade a word by a number: a background from dark blue to amber, or without colors a shade character after it."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

# (lower bound of the share, shade, style): the order is visible from lightness alone.
_BANDS = (
    (0.9, "█", "black on #ffdd78"),
    (0.5, "▓", "black on #c9a24b"),
    (0.2, "▒", "white on #5b6b7a"),
    (0.05, "░", "white on #27486b"),
    (0.0, " ", ""),
)


def shows_bands(console: Console) -> bool:
    """Whether the console has enough colors for the backgrounds."""
    return console.color_system in ("256", "truecolor")


def shaded(label: str, share: float, *, colored: bool) -> Text:
    """`label` and one more cell: with a background for `share` (0 to 1), or the shade character if not `colored`."""
    shade, style = next((shade, style) for least, shade, style in _BANDS if share >= least or least == 0)
    return Text(f"{label} ", style=style) if colored else Text(f"{label}{shade}")


def clipped(label: str, width: int) -> str:
    """`label` in exactly `width` cells, cut with an ellipsis or padded with spaces."""
    if cell_len(label) > width:
        label = set_cell_size(label, width - 1).rstrip() + "…"
    return set_cell_size(label, width)


class ShadeLegend:
    """A one-line legend of the backgrounds or shades."""

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
