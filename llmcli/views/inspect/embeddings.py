"""Nearest tokens of a word or a sum of words, ranked by the stored and by the centered embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.widgets.token_table import probability_bar, token_label

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from llmcli.inspection.residual.embeddings import EmbeddingNeighbors, NeighborToken

SCHEMA = "llmcli.embeddings/1"
NOTE = (
    "cosine: 1 is the same direction. centered: the mean embedding subtracted first. Compare with random pairs: only "
    "what is well above them is related."
)
_SIDE_BY_SIDE = 76
_LABEL_WIDTH = 16


class EmbeddingsView:
    """The expression and both rankings, side by side if there is room; random pairs as the baseline."""

    def __init__(self, result: EmbeddingNeighbors) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result = self._result
        yield _expression(result)
        rankings = (
            _ranking("as stored", result.raw, result.random_pair.raw),
            _ranking("centered", result.centred, result.random_pair.centred),
        )
        if options.max_width >= _SIDE_BY_SIDE:
            beside = Table.grid(padding=(0, 4, 0, 0))
            beside.add_row(*rankings)
            yield beside
        else:
            yield from rankings


def _expression(result: EmbeddingNeighbors) -> Text:
    line = Text()
    for index, term in enumerate(result.expression):
        if index or term.sign < 0:
            line.append(f"{' ' if index else ''}{'-' if term.sign < 0 else '+'} ", style="dim")
        line.append(token_label(term.token.bytes), style="bold")
        if not term.spaced:
            line.append(" (no token with a space before it)", style="dim")
    return line


def _ranking(title: str, neighbors: Sequence[NeighborToken], baseline: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("cosine", justify="right")
    table.add_column("", no_wrap=True, style=BLUE)
    table.add_column(title, no_wrap=True, max_width=_LABEL_WIDTH)
    table.add_column("", no_wrap=True)
    for rank, near in enumerate(neighbors, 1):
        label = Text(token_label(near.bytes), style="underline" if near.input else "")
        table.add_row(
            str(rank), f"{near.cosine:.3f}", probability_bar(near.cosine), label, "input" if near.input else ""
        )
    table.add_row("", f"{baseline:.3f}", probability_bar(baseline), Text("random pairs"), "", style="dim")
    return table
