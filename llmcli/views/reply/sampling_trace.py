"""How one token was chosen: its rivals, and their probabilities after each filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.engine.sampling_params import SamplingParams
    from llmcli.engine.sampling_trace import TracedCandidate

NOTE = "model: its own probability; then after each filter in turn, which shares what it takes away among the others"


def choice_table(
    choices: Sequence[TracedCandidate], taken: int, params: SamplingParams, token_bytes: Callable[[int], bytes]
) -> Table:
    """A row for each of `choices`, `>` before the one that was `taken`; `out` where a filter removed it.

    Filters that are off have no column.
    """
    penalty = "penalty, " if params.repeat_penalty != 1 else ""
    columns = {
        "temperature": f"{penalty}temp {params.temperature:g}",
        **({"top_k": f"top-k {params.top_k}"} if params.top_k else {}),
        **({"top_p": f"top-p {params.top_p:g}"} if params.top_p < 1 else {}),
        **({"min_p": f"min-p {params.min_p:g}"} if params.min_p else {}),
    }
    if params.temperature == 0:
        # All the others find nothing left to filter.
        columns = {"temperature": columns["temperature"]}
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("token", overflow="fold")
    table.add_column("model", justify="right")
    for label in columns.values():
        table.add_column(label, justify="right")
    for choice in choices:
        own = choice.id == taken
        table.add_row(
            f"{'>' if own else ' '}{choice.rank}",
            Text(token_label(token_bytes(choice.id)), style="bold underline" if own else ""),
            percent(math.exp(choice.logprob)),
            *(_cell(choice, name) for name in columns),
        )
    return table


def _cell(choice: TracedCandidate, name: str) -> str:
    """The probability after the filter `name`; only the first that leaves none has removed it."""
    after = next(probability for stage, probability in choice.after if stage == name)
    if after > 0:
        return percent(after)
    return "out" if choice.removed_by == name else ""
