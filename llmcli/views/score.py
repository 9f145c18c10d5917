"""A scored text: coloured by probability where there are colours, else a table of its tokens; and its JSON twin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.views.terminal import visible
from llmcli.views.tokens import band_style, percent, probability_bar, token_label

if TYPE_CHECKING:
    from llmcli.inspection.scoring import TextScore

SCHEMA = "llmcli.score/1"
_SPARKS = "▁▂▃▄▅▆▇█"
# Bits of surprise at which a spark is full: a token of one in 65,536.
_FULL_BITS = 16.0


def score_json(score: TextScore) -> dict[str, object]:
    """The score as plain JSON values."""
    return {"schema": SCHEMA, **asdict(score)}


def coloured_text(score: TextScore, token_bytes: Callable[[int], bytes]) -> Text:
    """The text itself, each token in the colour of its probability; one without a score is dim.

    Bytes of a character that several tokens share are drawn with the last of them.
    """
    view, pending = Text(), b""
    for token in score.tokens:
        pending += token_bytes(token.id)
        try:
            text, pending = pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if error.end < len(pending) or len(pending) > 3:
                text, pending = pending.decode("utf-8", errors="replace"), b""
            else:
                continue
        view.append(visible(text), "dim" if token.logprob is None else band_style(math.exp(token.logprob)))
    return view.append(pending.decode("utf-8", errors="replace"))


def score_table(score: TextScore, top: int, token_bytes: Callable[[int], bytes]) -> Table:
    """One row a token: probability, rank, surprise in bits, and the `top` most probable tokens."""
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
        row = [
            Text(str(token.index)),
            Text(label, style=band_style(probability)),
            Text(percent(probability)),
            Text(probability_bar(probability), style="blue"),
            Text(str(token.rank)),
            Text(f"{-token.logprob / math.log(2):.1f}"),
        ]
        if top:
            others = Text()
            for candidate in token.top:
                others.append(
                    token_label(token_bytes(candidate.id)), "bold underline" if candidate.id == token.id else ""
                )
                others.append(f" {percent(math.exp(candidate.logprob))}   ", style="dim")
            row.append(others)
        table.add_row(*row)
    return table


def score_summary(score: TextScore) -> Text:
    """Perplexity, bits per byte, and a sparkline of surprise."""
    bits = [-token.logprob / math.log(2) for token in score.tokens if token.logprob is not None]
    unscored = len(score.tokens) - len(bits)
    words = f"perplexity {score.perplexity:.2f} · {score.bits_per_byte:.3f} bits per byte · {len(bits)} tokens scored"
    words += f", {unscored} not: nothing came before it" if unscored else ""
    if score.windows > 1:
        words += f" · read in {score.windows} overlapping windows"
    return Text.assemble((sparkline(bits), "blue"), "\n", (words, "dim"))


def sparkline(bits: list[float], width: int = 60) -> str:
    """Surprise along a text, in at most `width` characters, each the mean of its stretch."""
    width = min(width, len(bits))
    edges = [round(number * len(bits) / width) for number in range(width + 1)]
    means = [sum(bits[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    return "".join(_SPARKS[min(len(_SPARKS) - 1, int(mean / _FULL_BITS * len(_SPARKS)))] for mean in means)
