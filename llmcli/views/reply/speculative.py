"""What proposing tokens gained, task by task."""

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
    "Ratio: times as fast as plain decoding, medians of all rounds; then the round in which it did worst and the one "
    "in which it did best. A pass: tokens that a pass of the model gave. Same: whether every reply is the one of plain "
    "decoding; one that is drawn with a draft model takes other random numbers. Replies are timed from their first "
    "token to their end, in one process, in turns."
)


def speculative_view(model: str, path: str, outcomes: Sequence[Outcome]) -> RenderableType:
    """The model, what computed, and a row for each task and way of writing."""
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
