"""The probability of each answer of a multiple choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.token_table import band_style, percent, probability_bar, token_label

if TYPE_CHECKING:
    from llmcli.inspection.evaluation.answer_choices import AnswerChoices


def answers_view(result: AnswerChoices, top: int = 0) -> Group:
    """One row per answer, or for the `top` best: share, surprise in bits, probability of its end, and tokens."""
    counts_end = any(choice.end_logprob is not None for choice in result.choices)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("answer", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("bits", justify="right", no_wrap=True)
    if counts_end:
        table.add_column("its end", justify="right", no_wrap=True)
    table.add_column("tokens", overflow="fold", style="dim")
    for choice in result.choices[: top or None]:
        table.add_row(
            Text(token_label(choice.text.encode("utf-8", errors="replace")), style=band_style(choice.prob)),
            percent(choice.prob),
            Text(probability_bar(choice.prob), style=BLUE),
            number(bits(-choice.logprob), ".2f"),
            *([] if choice.end_logprob is None else [percent(math.exp(choice.end_logprob))]),
            Text(" ".join(token_label(token.bytes) for token in choice.tokens)),
        )
    doing = "replies exactly one of these" if counts_end else "continues with one of these"
    note = f"unconstrained, the model {doing} {percent(result.covered)} of the time"
    return Group(table, Text(note, style="dim"))
