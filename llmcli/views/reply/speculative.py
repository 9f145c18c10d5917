"""Speedup of speculative decoding, task by task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.reply.stats import speed
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.token_table import percent

if TYPE_CHECKING:
    from llmcli.bench.speculative import Outcome

SCHEMA = "llmcli.bench-speculative/1"
NOTE = (
    "ratio: speed relative to plain decoding, median of all rounds. rounds: the slowest and the fastest round. a pass: "
    "tokens per pass of the model. same: whether every reply equals that of plain decoding (with a draft model and "
    "sampling, the random numbers differ). Each reply is timed from its first token to its end; all run in one "
    "process, taking turns."
)


def speculative_view(model: str, path: str, outcomes: Sequence[Outcome]) -> RenderableType:
    """The model, the implementation that ran, and one row per task and decoding method."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("")
    for name in ("speed", "ratio", "rounds", "a pass", "accepted", "same"):
        table.add_column(name, justify="right")
    for row in _rows(outcomes):
        table.add_row(*row)
    return Group(Text(visible(model), style="bold"), Text(visible(path), style="dim"), Text(), table)


def _rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    before = ""
    for one in outcomes:
        is_first, before = one.task != before, one.task
        helped = one.acceptance_rate is not None or one.ratio != 1
        yield (
            one.task if is_first else "",
            one.arm,
            speed(one.tokens_per_s),
            f"{one.ratio:.2f} x" if helped else "",
            f"{one.least:.2f}-{one.most:.2f}" if helped else "",
            f"{one.tokens_per_pass:.2f}",
            "" if one.acceptance_rate is None else percent(one.acceptance_rate),
            ("yes" if one.same else "no") if helped else "",
        )
