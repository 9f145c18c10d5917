"""What `--probs`, `--top` and `--attention` add below a reply, and the page that `--html` and `--svg` make of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.api import LoadedModel
    from llmcli.engine import Step
    from llmcli.inspection.attention.observer import AttentionWatch
    from llmcli.inspection.core.text_spans import Unit
    from llmcli.text.chat.prompt import Message
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ReportOptions:
    """What a user asked to see of each token."""

    probs: bool = False
    top: int = 0
    attention: bool = False
    by: Unit = "token"
    """What attention is summed over."""


def attention_watch(loaded: LoadedModel, said: Sequence[Message], report: ReportOptions) -> AttentionWatch | None:
    """Who looks on, if asked to, in a text that consists of the messages `said`.

    Raises:
        UsageError: attention is to be summed by message, but there are none.
    """
    if not report.attention:
        return None
    from llmcli.inspection.attention.observer import AttentionWatch
    from llmcli.inspection.core.text_spans import Spans

    if report.by == "message" and not said:
        raise UsageError("--attention-by message needs a conversation; raw text has no messages.")
    return AttentionWatch(loaded.model, loaded.tokenizer, spans=Spans(report.by, loaded.tokenizer, said))


def explain(tokenizer: Tokenizer, steps: Sequence[Step], report: ReportOptions) -> None:
    """On stderr: the legend of the colors and what the reply comes to; tables of its tokens if asked for, or if there
    are no colors; what was read for each.
    """
    if not (report.probs or report.top or report.attention) or not steps:
        return
    colored = report.probs and sys.stdout.isatty() and terminal.console_out().color_system is not None
    console = terminal.console_err()
    for view in _views(tokenizer, steps, report, colored=colored):
        console.print(view)


def reply_page(tokenizer: Tokenizer, steps: Sequence[Step], report: ReportOptions, *, prefill: str) -> RenderableType:
    """The reply in colors, with all that `explain` would say below it."""
    from rich.console import Group
    from rich.text import Text

    from llmcli.views.terminal.sanitize import visible
    from llmcli.views.widgets.token_table import step_style, styled

    text = styled((tokenizer.token_bytes(step.id), step_style(step)) for step in steps)
    more = _views(tokenizer, steps, replace(report, probs=True), colored=True) if steps else []
    return Group(Text(visible(prefill)) + text, "", *more)


def _views(
    tokenizer: Tokenizer, steps: Sequence[Step], report: ReportOptions, *, colored: bool
) -> list[RenderableType]:
    from rich.text import Text

    from llmcli.views.inspect.attention import NOTE, read_table
    from llmcli.views.widgets.token_table import legend, reply_summary, token_table

    views: list[RenderableType] = [legend(proposed=any(step.origin != "model" for step in steps))] if colored else []
    if report.top or (report.probs and not colored):
        views.append(token_table(steps, report.top, tokenizer.token_bytes))
    if report.probs or report.top:
        views.append(reply_summary(steps))
    if report.attention:
        rows = [(step.index, tokenizer.token_bytes(step.id), step.attention) for step in steps if step.attention]
        views += [read_table(rows), Text(NOTE, style="dim")]
    return views
