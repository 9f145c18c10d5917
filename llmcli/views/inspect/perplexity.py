"""A scored text: colored by probability, or without colors a table of its tokens; and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.terminal.to_json import with_bytes
from llmcli.views.widgets.items import Items
from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.token_table import (
    band_style,
    colored,
    legend,
    percent,
    probability_bar,
    probability_item,
    surprise_line,
    token_label,
)

if TYPE_CHECKING:
    from llmcli.inspection.evaluation.text_score import TextScore

SCHEMA = "llmcli.score/1"


def score_json(score: TextScore, token_bytes: Callable[[int], bytes]) -> dict[str, object]:
    """The score as plain JSON values."""
    tokens = [with_bytes(asdict(token), token_bytes) for token in score.tokens]
    return {**asdict(score), "tokens": tokens}


class ScoreView:
    """The text in colors, or, without colors or with `top`, a table of its tokens; then a summary."""

    def __init__(self, score: TextScore, top: int, token_bytes: Callable[[int], bytes]) -> None:
        self._score, self._top, self._token_bytes = score, top, token_bytes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None or self._top:
            yield score_table(self._score, self._top, self._token_bytes)
        else:
            yield colored(
                (self._token_bytes(token.id), None if token.logprob is None else math.exp(token.logprob))
                for token in self._score.tokens
            )
            yield legend()
        yield score_summary(self._score)


def score_table(score: TextScore, top: int, token_bytes: Callable[[int], bytes]) -> Table:
    """One row per token: probability, rank, surprisal in bits, and the `top` most probable tokens."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("model", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("rank", justify="right")
    table.add_column("bits", justify="right")
    if top:
        table.add_column("likelier", overflow="fold")
    for token in score.tokens:
        label = token_label(token_bytes(token.id))
        if token.logprob is None:
            table.add_row(str(token.index), Text(label, style="dim"), "", "", "", "")
            continue
        probability = math.exp(token.logprob)
        row: list[RenderableType] = [
            Text(str(token.index)),
            Text(label, style=band_style(probability)),
            Text(percent(probability)),
            Text(probability_bar(probability), style=BLUE),
            Text(str(token.rank)),
            Text(number(bits(-token.logprob), ".1f")),
        ]
        if top:
            row.append(
                Items(
                    [
                        probability_item(
                            token_label(token_bytes(candidate.id)), candidate.logprob, chosen=candidate.id == token.id
                        )
                        for candidate in token.top
                    ]
                )
            )
        table.add_row(*row)
    return table


def score_summary(score: TextScore) -> Text:
    """Perplexity, bits per byte, and a sparkline of surprisal."""
    logprobs = [token.logprob for token in score.tokens if token.logprob is not None]
    unscored = len(score.tokens) - len(logprobs)
    scored = f"{len(logprobs)} tokens scored" + (f", {unscored} not: no token before it" if unscored else "")
    more = [f"read in {score.windows} overlapping windows"] if score.windows > 1 else []
    return surprise_line(logprobs, f"{number(score.bits_per_byte, '.3f')} bits per byte", scored, *more)
