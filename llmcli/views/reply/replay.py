"""The result of replaying a recorded reply: identical, or the first token that differs and how close the choice was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.replay.replay import Difference, Replay
    from llmcli.replay.run_record import Ending

SCHEMA = "llmcli.replay/1"
_HASH_LENGTH = 12


def replay_view(result: Replay) -> Group:
    """The verdict, both candidates at the first difference, and what changed since the recording."""
    parts: list[RenderableType] = []
    if result.first_difference is None:
        parts.append(Text(f"The same: all {result.recorded_tokens} tokens."))
    else:
        index = result.first_difference.index
        parts += [
            Text(f"Token {index} differs; {_before(index)}."),
            _candidates(result.first_difference),
            Text(_closeness(result.first_difference)),
        ]
    if result.compared:
        change = f"surprise of tokens that agree: at most {number(bits(result.largest_change), '.2g')} bits apart"
        parts.append(Text(change, style="dim"))
    for name, (then, now) in result.changed.items():
        cut = _HASH_LENGTH if name.startswith("file ") else None
        parts.append(Text(f"{name}: {then[:cut] or 'absent'} when recorded, {now[:cut] or 'absent'} now", "dim"))
    return Group(*parts)


def _before(index: int) -> str:
    return "it is the first" if index == 0 else f"the {index} before it are the same"


def _candidates(difference: Difference) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("token", overflow="fold")
    table.add_column("recorded", justify="right", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True)
    for name, side in (("recorded", difference.recorded), ("replayed", difference.replayed)):
        then = "-" if side.recorded_logprob is None else percent(math.exp(side.recorded_logprob))
        table.add_row(name, _label(side), then, percent(math.exp(side.logprob)))
    return table


def _label(side: Ending) -> Text:
    return Text("end of the reply", style="italic") if side.token is None else Text(token_label(side.token.bytes))


def _closeness(difference: Difference) -> str:
    gap = difference.gap
    than = "more" if gap >= 0 else "less"
    return f"{number(bits(abs(gap)), '.3g')} bits apart: in the replay its own token is {than} probable."
