"""Tokens colored by probability, tables of tokens with their candidates, and lines of surprisal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE, PROBABILITY_STYLES
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.items import Items
from llmcli.views.widgets.numbers import bits, number

if TYPE_CHECKING:
    from llmcli.engine.events import SampledCandidate, Step

_LABELS = ("90%+", "50%+", "20%+", "5%+", "less")
# (lower bound of the probability, label in the legend, style). In running text nearly certain tokens have no color.
BANDS = tuple(
    (least, label, style if index else "")
    for index, ((least, style), label) in enumerate(zip(PROBABILITY_STYLES, _LABELS, strict=True))
)
# Temperature is not listed: 0 obviously rules out all tokens but one.
_RULED_OUT = {
    "constraint": " (by the constraint)",
    "logit_bias": " (by the logit bias)",
    "penalties": " (by a penalty)",
    "dry": " (a repetition)",
    "top_n_sigma": " (beyond top-n-sigma)",
    "top_k": " (not in top-k)",
    "typical_p": " (not typical)",
    "top_p": " (not in top-p)",
    "min_p": " (below min-p)",
    "xtc": " (a top choice)",
}
_BAR = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 8
_SPARKS = "▁▂▃▄▅▆▇█"
# Surprisal in bits at which a bar is full: probability 1 in 65,536.
_FULL_BITS = 16.0
# 2 to this power overflows a float.
_TOO_MANY_BITS = 1024


def band_style(probability: float) -> str:
    """The style for a token of this probability."""
    return next(style for least, _, style in BANDS if probability >= least)


def step_style(step: Step) -> str:
    """The style of a reply's token: the color of its probability, underlined if it was a draft token."""
    found = probability(step)
    color = "dim" if found is None else band_style(found)
    return color if step.origin == "model" else f"{color} underline".strip()


def legend(*, proposed: bool = False) -> Text:
    """A one-line legend of the colors, and of the underline if any tokens were `proposed` as drafts."""
    line = Text.assemble(("probability: ", "dim"))
    for _, label, style in BANDS:
        line.append(f" {label} ", style=style or "default")
        line.append(" ")
    if proposed:
        line.append(" ").append("proposed, then verified", style="underline")
    return line


def probability_bar(probability: float) -> str:
    """A bar of fixed width, full at probability 1."""
    eighths = round(min(max(probability, 0.0), 1.0) * 8 * _BAR_WIDTH)
    bar = "█" * (eighths // 8) + (_BAR[eighths % 8] if eighths % 8 else "")
    return bar.ljust(_BAR_WIDTH)


def token_label(data: bytes) -> str:
    """A token's bytes as a sanitized label: white space and invalid bytes become visible characters."""
    text = data.decode("utf-8", errors="backslashreplace")
    text = visible(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def token_table(steps: Sequence[Step], top: int, token_bytes: Callable[[int], bytes]) -> Table:
    """One row per token: its probability before and after the sampling filters, the entropy of the unfiltered
    distribution in bits, and the `top` most probable tokens; with speculative decoding also where each token came from.
    """
    proposed = any(step.origin != "model" for step in steps)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("model", justify="right")
    if not top:
        table.add_column("", no_wrap=True)
    table.add_column("sampled", justify="right")
    table.add_column("entropy", justify="right", style="dim", no_wrap=True)
    if proposed:
        table.add_column("from", style="dim")
    if top:
        table.add_column("could have been", overflow="fold")
    for step in steps:
        of_model = probability(step) or 0.0
        table.add_row(
            Text(str(step.index)),
            Text(token_label(token_bytes(step.id)), style=band_style(of_model)),
            Text(percent(of_model)),
            *([] if top else [Text(probability_bar(of_model), style=BLUE)]),
            Text(percent(step.sampled_prob or 0.0)),
            Text(f"{bits(step.entropy or 0.0):.1f} bits"),
            *([step.origin] if proposed else []),
            *([_candidates(step, token_bytes)] if top else []),
        )
    return table


def _candidates(step: Step, token_bytes: Callable[[int], bytes]) -> Items:
    def item(candidate: SampledCandidate) -> Text:
        label = token_label(token_bytes(candidate.id))
        ruled_out = _RULED_OUT.get(candidate.removed_by or "", "")
        return probability_item(label, candidate.logprob, chosen=candidate.id == step.id, more=ruled_out)

    return Items([item(candidate) for candidate in step.top])


def probability_item(label: str, logprob: float, *, chosen: bool, more: str = "") -> Text:
    """A candidate with its probability, underlined if it was `chosen`."""
    style = "bold underline" if chosen else ""
    return Text.assemble((label, style), (f" {percent(math.exp(logprob))}{more}", "dim"))


def colored(tokens: Iterable[tuple[bytes, float | None]], style_of: Callable[[float], str] = band_style) -> Text:
    """The text of tokens, each styled by its probability or another number; tokens without a number are dim."""
    return styled((data, "dim" if number is None else style_of(number)) for data, number in tokens)


def styled(tokens: Iterable[tuple[bytes, str]]) -> Text:
    """The text of tokens, each in its style; a character split over several tokens takes the style of the last."""
    view, pending = Text(), b""
    for data, style in tokens:
        pending += data
        try:
            text, pending = pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if error.end < len(pending) or len(pending) > 3:
                text, pending = pending.decode("utf-8", errors="replace"), b""
            else:
                continue
        view.append(visible(text), style)
    return view.append(pending.decode("utf-8", errors="replace"))


def probability(step: Step) -> float | None:
    """The probability of a token before any sampling filter; None if it was not computed."""
    return None if step.logprob is None else math.exp(step.logprob)


def reply_summary(steps: Sequence[Step]) -> Text:
    """Sparkline of surprisal, perplexity and mean entropy of a reply, all before sampling filters."""
    entropies = [step.entropy for step in steps if step.entropy is not None]
    entropy = f"mean entropy {bits(sum(entropies) / max(len(entropies), 1)):.2f} bits"
    return surprise_line([step.logprob for step in steps if step.logprob is not None], entropy)


def surprise_line(logprobs: Sequence[float], *more: str) -> Text:
    """A sparkline of the tokens' surprisal, from their log-probabilities (nats); below it, perplexity and `more`."""
    surprisal = [bits(-logprob) for logprob in logprobs]
    mean = sum(surprisal) / len(surprisal)
    perplexity = 2**mean if mean < _TOO_MANY_BITS else math.inf
    words = " · ".join((f"perplexity {number(perplexity, '.2f')}", *more))
    return Text.assemble((sparkline(surprisal), BLUE), "\n", (words, "dim"))


def sparkline(surprisal: Sequence[float], width: int = 60) -> str:
    """Surprisal in bits along a text in at most `width` characters, each the mean of a segment."""
    width = min(width, len(surprisal))
    edges = [round(number * len(surprisal) / width) for number in range(width + 1)]
    means = [sum(surprisal[a:b]) / (b - a) for a, b in pairwise(edges)]
    return "".join(_SPARKS[int(min(mean / _FULL_BITS * len(_SPARKS), len(_SPARKS) - 1))] for mean in means)


def percent(probability: float) -> str:
    """A probability in percent with one decimal."""
    return "<0.1%" if 0 < probability < 0.0005 else f"{100 * probability:.1f}%"
