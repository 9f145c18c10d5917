"""Needle in a haystack: the mean probability of the right answer at each depth, with its confidence interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.token_table import percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from llmcli.inspection.evaluation.needle import DepthScore, NeedleResult

SCHEMA = "llmcli.needle/1"
NOTE = "At chance, the model does not find the fact. depth: where in the text the fact is, 0 % at its beginning."
_NUMBERS = "{depth:>6}  {plot}  {mean:>6}  {interval:>7}  {right:>5}"
_WIDTH_OF_NUMBERS = 32
_WIDEST_PLOT = 50


class NeedleView:
    """One line per depth: mean probability and confidence range on an axis from 0 to 1, with the chance level."""

    def __init__(self, result: NeedleResult) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result = self._result
        width = max(5, min(_WIDEST_PLOT, options.max_width - _WIDTH_OF_NUMBERS))
        how = " in the chat template" if result.chat else ""
        yield Text(
            f"{result.facts} facts in {result.tokens:.0f} tokens{how}, one asked for: {result.seeds} texts a depth"
        )
        header = _NUMBERS.format(
            depth="depth", plot="0".ljust(width - 1) + "1", mean="mean", interval="95 %", right="right"
        )
        yield Text(header, style="dim", no_wrap=True, overflow="crop")
        for score in result.depths:
            line = _NUMBERS.format(
                depth=f"{score.depth:.3g} %",
                plot=_plot(score, result.chance, width),
                mean=percent(score.mean),
                interval=f"{100 * score.low:.0f}-{100 * score.high:.0f}",
                right=f"{100 * score.accuracy:.0f} %",
            )
            yield Text(line, no_wrap=True, overflow="crop")
        yield Text(
            f"● mean probability of the right word among the {result.facts}, ├─┤ 95% confidence range, "
            f"┊ chance {percent(result.chance)}; right: how often it is the most probable",
            style="dim",
        )
        yield Text(visible(f"Example question: {result.example} ({result.answer})"), style="dim")


def _plot(score: DepthScore, chance: float, width: int) -> str:
    """Draw the interval, the mean and the chance level on an axis from 0 to 1."""
    low, mean, high, guess = (
        min(int(max(value, 0.0) * width), width - 1) for value in (score.low, score.mean, score.high, chance)
    )
    cells = [" "] * width
    cells[guess] = "┊"
    cells[low : high + 1] = "─" * (high + 1 - low)
    cells[low], cells[high] = "├", "┤"
    cells[mean] = "●"
    return "".join(cells)
