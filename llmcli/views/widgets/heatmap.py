"""Heat maps of a table of numbers: in color two rows per line, without color one row per line in shades."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from llmcli.views.terminal.colors import AMOUNT_RAMP

_SHADES = " ░▒▓█"
_LEGEND_WIDTH = 20
_DIM = Style(dim=True)


class HeatMap:
    """Rows of numbers from `low` (dark blue, or blank) to `high` (light blue, or solid); None is left blank.

    In color, a line shows two rows as half blocks, the upper half for the upper row; in shades, one. Each line has the
    label of its first row. If the map is too wide for the console, cells become narrower, then columns are merged by
    their maximum, with a note; the ruler above still counts columns of the data.
    """

    def __init__(
        self,
        values: Sequence[Sequence[float | None]],
        *,
        low: float = 0.0,
        high: float = 1.0,
        row_label: Callable[[int], str] | None = None,
        cell_width: int = 1,
        paired: bool = True,
    ) -> None:
        """Without `paired`, a line shows one row in color too, so that every row has a label."""
        self._rows = values
        self._columns = max((len(row) for row in values), default=0)
        self._low, self._span = low, high - low or 1.0
        self._labels = [row_label(row) + " " for row in range(len(values))] if row_label is not None else []
        self._label_width = max(map(cell_len, self._labels), default=0)
        self._cell_width = cell_width
        self._paired = paired

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = self._label_width + self._columns * self._cell_width
        return Measurement(min(widest, self._label_width + 1), widest).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._columns:
            return
        labels = min(self._label_width, options.max_width // 2)
        room = max(1, options.max_width - labels)
        merged = math.ceil(self._columns / room)
        columns = math.ceil(self._columns / merged)
        cell = max(1, min(self._cell_width, room // columns))
        yield Segment(" " * labels + _ruler(columns, merged, cell), _DIM)
        yield Segment.line()
        together = 2 if _has_ramp(console) and self._paired else 1
        for first in range(0, len(self._rows), together):
            if self._labels:
                yield Segment(set_cell_size(self._labels[first], labels), _DIM)
            shares = [self._shares(row, merged) for row in range(first, first + together)]
            if together == 2:
                yield from _half_blocks(shares[0], shares[1], cell)
            elif _has_ramp(console):
                yield from _half_blocks(shares[0], shares[0], cell)
            else:
                yield from _shades(shares[0], cell)
            yield Segment.line()
        if merged > 1:
            yield Text(f"each column is the maximum of {merged}", style="dim")

    def _shares(self, row: int, merged: int) -> list[float | None]:
        """Values of a row scaled from `low`..`high` to 0..1, after merging every `merged` columns."""
        values = self._rows[row] if row < len(self._rows) else []
        padded = [*values, *[None] * (self._columns - len(values))]
        return [self._share(padded[start : start + merged]) for start in range(0, self._columns, merged)]

    def _share(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None and not math.isnan(value)]
        return min(max((max(known) - self._low) / self._span, 0.0), 1.0) if known else None


class _Scale:
    def __init__(self, low: float, high: float, unit: str) -> None:
        self._low, self._high, self._unit = low, high, unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text.assemble((f"{self._low:.3g} ", "dim"))
        if _has_ramp(console):
            for step in range(_LEGEND_WIDTH):
                line.append(" ", style=Style(bgcolor=_color(step / (_LEGEND_WIDTH - 1))))
        else:
            line.append("".join(shade * (_LEGEND_WIDTH // len(_SHADES)) for shade in _SHADES))
        line.append(f" {self._high:.3g} {self._unit}".rstrip(), "dim")
        yield line


def scale_legend(low: float, high: float, unit: str = "") -> _Scale:
    """A one-line legend of the colors or shades of a heat map from `low` to `high`."""
    return _Scale(low, high, unit)


def _has_ramp(console: Console) -> bool:
    """Whether the console has enough colors for the ramp."""
    return console.color_system in ("256", "truecolor")


def _ruler(columns: int, merged: int, cell: int) -> str:
    """Column numbers of the data at regular steps, each above its column; empty if there is no room."""
    widest = len(str(columns * merged)) + 1
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    step = next(step for step in steps if step * cell >= widest)
    ruler = "".join(str(column * merged).ljust(step * cell) for column in range(0, columns, step))
    return ruler[: columns * cell] if columns * cell >= widest else ""


def _half_blocks(upper: Sequence[float | None], lower: Sequence[float | None], cell: int) -> Iterator[Segment]:
    for above, below in zip(upper, lower, strict=True):
        if above is not None:
            yield Segment("▀" * cell, Style(color=_color(above), bgcolor=None if below is None else _color(below)))
        elif below is not None:
            yield Segment("▄" * cell, Style(color=_color(below)))
        else:
            yield Segment(" " * cell)


def _shades(shares: Sequence[float | None], cell: int) -> Iterator[Segment]:
    last = len(_SHADES) - 1
    yield Segment(
        "".join(" " * cell if share is None else _SHADES[min(int(share * (last + 1)), last)] * cell for share in shares)
    )


def _color(share: float) -> Color:
    """The color `share` of the way along the ramp."""
    place = share * (len(AMOUNT_RAMP) - 1)
    left = min(int(place), len(AMOUNT_RAMP) - 2)
    mixed = (round(a + (b - a) * (place - left)) for a, b in zip(AMOUNT_RAMP[left], AMOUNT_RAMP[left + 1], strict=True))
    return Color.from_rgb(*mixed)
