"""Prompt ablation: the answer's probability when a part of the prompt is hidden or removed, or word by word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.numbers import bits, number
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.inspection.causal.prompt_ablation import Without, WordScan
    from llmcli.inspection.core.tokens import TokenProb

SCHEMA = "llmcli.without/1"
WORDS_SCHEMA = "llmcli.without-words/1"
NOTE = (
    "hidden: later tokens cannot attend to it, in any block. removed: the prompt is read again without it. in bits: "
    "the surprise of the whole answer; one bit more halves its probability."
)
WORDS_NOTE = (
    "change: in the surprise of the whole answer when later tokens cannot attend to the word. The higher, the more the "
    "answer depends on it; one bit halves its probability."
)
_LAST = "It ends the prompt: its last token itself predicts the answer, and hiding it from others cannot change that."
_FIRST = "It includes the first token, on which heads park unused attention: the change is not only due to its meaning."
_BAR_WIDTH = 12
_BAR = " ▏▎▍▌▋▊▉█"


def without_view(result: Without) -> Group:
    """The ablated part, then the probabilities of each token of the answer and of the answer as a whole."""
    parts: list[RenderableType] = [
        Text.assemble("without ", (_quoted(result.span.text), "bold"), f" ({_numbers(result.span.positions)})")
    ]
    if 0 in result.span.positions:
        parts.append(Text(_FIRST, style="dim"))
    if result.span.ends_prompt:
        parts.append(Text(_LAST, style="dim"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("answer", overflow="fold")
    for name in ("before", "hidden", "removed"):
        table.add_column(name, justify="right", overflow="fold")
    for token in result.answer:
        removed = "-" if token.removed is None else percent(token.removed)
        table.add_row(Text(token_label(token.bytes)), percent(token.before), percent(token.hidden), removed)
    total = result.total
    changes = [None if value is None else _less(value, total.before) for value in (total.hidden, total.removed)]
    table.add_row(Text("all, in bits", style="dim"), *map(_surprise, (total.before, total.hidden, total.removed)))
    table.add_row(Text("change", style="dim"), "", *(_change(change) for change in changes))
    first = result.instead
    table.add_row(Text("first choice", style="dim"), *map(_choice, (first.before, first.hidden, first.removed)))
    return Group(*parts, table)


def words_view(result: WordScan) -> Group:
    """One row per word: the change when it is hidden, with a bar; the word the answer depends on most first."""
    answer = Text.assemble("answer ", ("".join(token_label(token.bytes) for token in result.answer), "bold"))
    answer.append(f" (surprise {_surprise(result.before)} bits)")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("word", overflow="fold")
    table.add_column("#", justify="right", style="dim", overflow="fold")
    table.add_column("change, bits", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    largest = max((abs(word.hidden) for word in result.words), default=0.0)
    for word in result.words:
        numbers = _numbers(word.positions).partition(" ")[2]
        share = _share(abs(word.hidden), largest)
        table.add_row(_word(word.text), numbers, _change(word.hidden), Text(_bar(share), style=BLUE))
    parts: list[RenderableType] = [answer, table]
    if any(0 in word.positions for word in result.words):
        parts.append(Text("Token 0 matters whatever it says: heads park unused attention on it.", "dim"))
    if any(word.ends_prompt for word in result.words):
        parts.append(Text("The word that ends the prompt predicts the answer itself and can hardly be hidden.", "dim"))
    return Group(*parts)


def _quoted(text: str) -> str:
    return token_label(text.encode("utf-8", errors="replace"))


def _word(text: str) -> Text:
    return Text(visible(text.strip().replace("\n", "⏎").replace("\t", "⇥")) or _quoted(text))


def _numbers(positions: Sequence[int]) -> str:
    """Positions as a phrase such as "tokens 0, 3-7"."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][1] == position - 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    named = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"token {named}" if len(positions) == 1 else f"tokens {named}"


def _less(value: float, before: float) -> float:
    # Where both are infinite, their difference would be NaN.
    return 0.0 if value == before else value - before


def _share(value: float, largest: float) -> float:
    return 1.0 if value == largest > 0 else value / largest if largest else 0.0


def _surprise(logprob: float | None) -> str:
    return "-" if logprob is None else number(bits(-logprob), ".2f")


def _change(of_logprob: float | None) -> str:
    """The change of surprise in bits, from that of a log-probability."""
    return "-" if of_logprob is None else number(bits(-of_logprob), "+.2f")


def _choice(choice: TokenProb | None) -> Text:
    return Text("-") if choice is None else Text(f"{token_label(choice.bytes)} {percent(choice.prob)}")


def _bar(share: float) -> str:
    eighths = round(share * 8 * _BAR_WIDTH)
    return "█" * (eighths // 8) + (_BAR[eighths % 8] if eighths % 8 else "")
