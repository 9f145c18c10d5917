"""Two models on one text: tokens colored by KL divergence or as a table, and where greedy continuations differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import PROBABILITY_STYLES
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.token_table import colored, percent, token_label

if TYPE_CHECKING:
    from llmcli.inspection.core.tokens import Token
    from llmcli.inspection.evaluation.comparison_side import Continuation, Expected
    from llmcli.inspection.evaluation.model_diff import Comparison

SCHEMA = "llmcli.compare/1"
# (lower bound of the KL in bits, label in the legend, style). The colors of surprise.
_BANDS = tuple(
    (least, label, style if least else "")
    for (least, label), (_, style) in zip(
        ((1.0, "1+"), (0.3, "0.3+"), (0.1, "0.1+"), (0.01, "0.01+"), (0.0, "below 0.01")),
        reversed(PROBABILITY_STYLES),
        strict=True,
    )
)


class ComparisonView:
    """The text in colors, or without colors a table of its tokens; then a summary and the continuations."""

    def __init__(self, result: Comparison) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None:
            yield comparison_table(self._result)
        else:
            yield colored(((token.bytes, token.kl) for token in self._result.tokens), _style)
            yield _legend()
        yield _summary(self._result)
        yield from _continuations(self._result)


def comparison_table(result: Comparison) -> Table:
    """One row per compared token: KL divergence, each model's probability for it and each model's first choice."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("KL bits", justify="right", no_wrap=True)
    table.add_column("A", justify="right", no_wrap=True)
    table.add_column("B", justify="right", no_wrap=True)
    table.add_column("first choices, if not the same", overflow="fold")
    for token in result.tokens:
        if token.kl is None or token.first is None or token.second is None:
            continue
        same = token.first.choice.id == token.second.choice.id
        table.add_row(
            str(token.index),
            Text(token_label(token.bytes), style=_style(token.kl)),
            number(bits(token.kl), ".3f"),
            percent(math.exp(token.first.logprob)),
            percent(math.exp(token.second.logprob)),
            "" if same else Text(f"{_choice(token.first)} or {_choice(token.second)}"),
        )
    return table


def _choice(expected: Expected) -> str:
    return f"{token_label(expected.choice.bytes)} {percent(math.exp(expected.choice_logprob))}"


def _style(kl: float) -> str:
    return next(style for least, _, style in _BANDS if bits(kl) >= least or least == 0)


def _legend() -> Text:
    line = Text.assemble(("KL in bits: ", "dim"))
    for _, label, style in reversed(_BANDS):
        line.append(f" {label} ", style=style or "default")
        line.append(" ")
    return line


def _summary(result: Comparison) -> Text:
    worst = max((token for token in result.tokens if token.kl is not None), key=lambda token: token.kl or 0.0)
    lines = Text()
    for letter, name, perplexity in zip("AB", result.models, result.perplexities, strict=True):
        lines.append(visible(f"{letter} {name}: perplexity {number(perplexity, '.3f')}\n"))
    parts = [
        f"mean KL {number(bits(result.mean_kl), '.4f')} bits",
        f"largest {number(bits(result.largest_kl), '.3f')} at {token_label(worst.bytes)} ({worst.index})",
        f"same first choice {percent(result.agreement)} of {result.compared} tokens",
    ]
    return lines.append(" · ".join(parts), style="dim")


def _continuations(result: Comparison) -> list[Text]:
    parting = result.parting
    if parting is None:
        return [Text(f"Greedy continuation: the same {len(result.continuations[0].tokens)} tokens.")]
    lines = [Text(f"Greedy continuation: token {parting.index} is the first that differs.")]
    sides = ((parting.first, parting.first_gap), (parting.second, parting.second_gap))
    for letter, said, (own, gap) in zip("AB", result.continuations, sides, strict=True):
        line = Text(f"{letter} ", style="bold").append(_token(own), style="bold underline")
        if gap is not None:
            line.append(f" by {number(bits(gap), '.3g')} bits", style="dim")
        lines.append(line.append(f"  {_excerpt(said)}", style="not bold"))
    return lines


def _token(token: Token | None) -> str:
    return "ends" if token is None else token_label(token.bytes)


def _excerpt(said: Continuation) -> str:
    text = visible(" ".join(said.text.split()))
    return text if len(text) <= 200 else text[:199] + "…"
