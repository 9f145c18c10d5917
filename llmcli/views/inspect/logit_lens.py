"""Logit lens: one position block by block, or a grid of several positions.

Results count applied blocks, 0 for the embedding. The screen numbers blocks from 0, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE, PROBABILITY_STYLES
from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.shading import ProbabilityLegend, clipped, shaded, shows_bands
from llmcli.views.widgets.token_table import percent, probability_bar, token_label

if TYPE_CHECKING:
    from llmcli.inspection.core.tokens import TokenProb
    from llmcli.inspection.residual.logit_lens import Lens, LensLayer, LensPosition

SCHEMA = "llmcli.lens/1"
NOTE = (
    "What each layer would answer if it were the last; emb is the embedding. Early layers were never trained for this: "
    "expect noise."
)
NOTE_TIED = f"{NOTE} emb mostly shows the input token (tied embeddings)."
_TOKEN_WIDTH = 8
_CELL = _TOKEN_WIDTH + 1
_LABEL = 6
# Approximate limit of the rows of a grid; layers in between are left out.
_ROWS = 16
_NARROW = 48
_ROOM_FOR_OTHERS = 16
# Tokens are cut to this in a table.
_LONGEST = 16


class LensView:
    """One position in detail; several as a grid, split into pages of as many columns as fit."""

    def __init__(self, lens: Lens) -> None:
        self._lens = lens

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if len(self._lens.lens) == 1:
            yield from self._detail(self._lens.lens[0], options.max_width)
        else:
            yield from self._grid(console, options.max_width)

    def _detail(self, found: LensPosition, width: int) -> Iterator[RenderableType]:
        read = token_label(self._lens.tokens[found.position].bytes)
        yield Text.assemble(("after ", "dim"), (read, "bold"), (f" at {found.position}", "dim"), overflow="fold")
        yield lens_table(found, found.layers, width)
        yield Text(_leads(found), style="dim", overflow="fold")

    def _grid(self, console: Console, width: int) -> Iterator[RenderableType]:
        columns = max(1, (width - _LABEL + 1) // (_CELL + 1))
        for first in range(0, len(self._lens.lens), columns):
            if first:
                yield Text()
            yield from self._page(self._lens.lens[first : first + columns], shows_bands(console))
        yield ProbabilityLegend()

    def _page(self, found: Sequence[LensPosition], colored: bool) -> Iterator[Text]:
        labels = [token_label(self._lens.tokens[position.position].bytes) for position in found]
        yield _line("#", [Text(clipped(str(position.position), _CELL), style="dim") for position in found])
        yield _line("block", [Text(clipped(label, _TOKEN_WIDTH) + " ", style="bold") for label in labels])
        for layer in _some_layers(len(found[0].layers) - 1):
            best = [position.layers[layer].top[0] for position in found]
            cells = [clipped(token_label(token.bytes), _TOKEN_WIDTH) for token in best]
            yield _line(
                after_block(layer),
                [
                    shaded(cell, token.prob, colored=colored, scale=PROBABILITY_STYLES)
                    for cell, token in zip(cells, best, strict=True)
                ],
            )
        leads = ["-" if position.leads_from is None else after_block(position.leads_from) for position in found]
        yield _line("leads", [Text(clipped(block, _CELL), style="dim") for block in leads])


def lens_table(found: LensPosition, layers: Sequence[LensLayer], width: int) -> Table:
    """One row per block: its most probable tokens, the rank of the followed token and the KL to the last one."""
    labels = [clipped(token_label(layer.top[0].bytes), _LONGEST).rstrip() for layer in layers]
    columns = {
        "block": [Text(after_block(layer.layer), style="dim") for layer in layers],
        "says": [Text(label, style="bold" * (at.rank == 1)) for label, at in zip(labels, layers, strict=True)],
        " ": [Text(percent(layer.top[0].prob)) for layer in layers],
        "": [Text(probability_bar(layer.top[0].prob), style=BLUE) for layer in layers],
        "rank": [Text(str(layer.rank)) for layer in layers],
        "KL bits": [Text(number(bits(layer.kl), ".2f")) for layer in layers],
    }
    if width < _NARROW:
        del columns[""]
    taken = sum(max(cell_len(name), *(cell.cell_len for cell in cells)) + 1 for name, cells in columns.items())
    if width - taken >= _ROOM_FOR_OTHERS and any(len(layer.top) > 1 for layer in layers):
        columns["then"] = [_others(layer.top[1:], width - taken) for layer in layers]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name.strip(), justify="left" if name in ("says", "", "then") else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _others(others: Sequence[TokenProb], room: int) -> Text:
    """The candidates after the first, up to `room` cells."""
    line = Text(style="dim")
    for other in others:
        item = f"{token_label(other.bytes)} {percent(other.prob)}"
        if line.cell_len + cell_len(item) > room:
            break
        line.append(f"{item}  ")
    line.rstrip()
    return line


def _line(label: str, cells: Sequence[Text]) -> Text:
    line = Text.assemble((f"{label:>{_LABEL - 1}} ", "dim"), no_wrap=True, overflow="crop")
    return line.append_text(Text(" ").join(cells))


def _some_layers(last: int) -> list[int]:
    """About `_ROWS` evenly spaced layers, including the first and the last."""
    step = -(-last // _ROWS) or 1
    return [*range(0, last, step), last]


def _leads(found: LensPosition) -> str:
    token = token_label(found.token.bytes)
    if found.leads_from is None:
        return f"rank: of {token}, which is not the most probable token at the end"
    place = f"block {found.leads_from - 1}" if found.leads_from else "the embedding"
    return f"rank: of {token}, which is the most probable from {place} on"


def after_block(layer: int) -> str:
    """The number of the block after which a layer's distribution is read; `emb` is the embedding, before block 0."""
    return str(layer - 1) if layer else "emb"
