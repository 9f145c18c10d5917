"""Causal trace: three heat maps of tokens by blocks, the probability of the answer when that state is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from llmcli.views.widgets.heatmap import HeatMap, scale_legend
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcli.inspection.causal.causal_trace import CausalTrace

SCHEMA = "llmcli.causal-trace/1"
NOTE = (
    "Rows are tokens (* the subject), columns blocks. High: restoring this state alone brings the answer back. "
    "An edit does not always work best there."
)
_LONGEST_LABEL = 14


def causal_trace_view(result: CausalTrace) -> Group:
    """The answer's probability with and without noise, then one map per kind of restored state."""
    answer = Text.assemble(
        "answer ", (token_label(result.answer.bytes), "bold"), f" {percent(result.answer.prob)}, ",
        f"{percent(result.corrupted)} with noise on the subject (mean of {result.samples})",
    )  # fmt: skip
    high = max([result.answer.prob, *(value for row in result.hidden for value in row)])
    around = f"of {result.window} blocks around" if result.window > 1 else "of the block"
    maps = [
        _map(result, "residual stream", "after the block", result.hidden, high),
        _map(result, "feed-forward", around, result.feed_forward, high),
        _map(result, "attention", around, result.attention, high),
    ]
    return Group(
        answer, Text(), Columns(maps, padding=(1, 3)), scale_legend(result.corrupted, high, "probability when restored")
    )


def _map(result: CausalTrace, title: str, words: str, rows: Sequence[Sequence[float]], high: float) -> RenderableType:
    first = min(result.subject)
    labels = [
        ("*" if at in result.subject else " ") + token_label(token.bytes)[:_LONGEST_LABEL]
        for at, token in enumerate(result.tokens)
    ]
    cells = HeatMap(
        rows[first:], low=result.corrupted, high=high, row_label=lambda row: labels[first + row], paired=False
    )
    return Group(Text(title, style="bold"), Text(words, style="dim"), cells)
