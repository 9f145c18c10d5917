"""What `--probs`, `--top` and `--attention` add below a reply, and the page that `--html` and `--svg` make of it.

Attention is read when the reply is over, so that a reply is the same whether or not its attention is shown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.commands.shared.options.report import ReportOptions
from llmcli.errors import OutOfMemoryError, UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.engine import Step
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.prompt import Message
    from llmcli.text.tokenizer import Tokenizer

# Reading attention takes longer than other work before there is something to show for it.
_PATIENCE_S = 1.0


@dataclass(frozen=True)
class ReadAttention:
    """The tokens of a reply with the attention that was read for them, and what ended the reading early."""

    steps: Sequence[Step]
    """Without attention where it was not asked for, or not reached."""
    interrupted: bool = False
    """Ctrl-C ended the reading."""
    error: OutOfMemoryError | None = None
    """There was not enough memory to read it."""


def check_report(report: ReportOptions, *, is_chat: bool) -> None:
    """Raise `UsageError` if attention is to be summed by message in a text that is not a chat's."""
    if report.attention and report.attention_by == "message" and not is_chat:
        raise UsageError("--attention-by message needs a conversation; raw text has no messages.")


def read_attention(
    loaded: LoadedModel,
    said: Sequence[Message],
    prompt: Sequence[int],
    steps: Sequence[Step],
    report: ReportOptions,
) -> ReadAttention:
    """`steps`, the reply to the tokens `prompt`, with the attention of each, if `report` asks for it.

    One pass over prompt and reply on the readable model, with progress on stderr. Ctrl-C ends the pass, and what was
    read until then is kept. `said` is the messages that the prompt consists of. Where steps have probabilities and the
    readable model gives others, a note says so.
    """
    if not report.attention or not steps:
        return ReadAttention(steps)
    from llmcli.inspection.attention.reply import ReplyAttention
    from llmcli.inspection.core.text_spans import Spans
    from llmcli.views.inspect.readable_difference import TokenProbabilities, difference_note
    from llmcli.views.terminal.progress import progress_bar
    from llmcli.views.widgets.token_table import probability

    reading = ReplyAttention(
        loaded,
        prompt,
        [step.id for step in steps],
        spans=Spans(report.attention_by, loaded.tokenizer, said),
        logprobs=any(step.logprob is not None for step in steps),
    )
    interrupted, failed = False, None
    try:
        with progress_bar(unit="tokens", estimate=True, delay_s=_PATIENCE_S) as progress:
            reading.read(lambda done, total: progress("Reading the attention", done, total))
    except KeyboardInterrupt:
        interrupted = True
    except OutOfMemoryError as error:
        failed = error
    compared = [
        TokenProbabilities(step.index, loaded.tokenizer.token_bytes(step.id), own, math.exp(logprob))
        for step, logprob in zip(steps, reading.logprobs, strict=False)
        if (own := probability(step)) is not None
    ]
    if (note := difference_note(compared)) is not None:
        terminal.note(note)
    with_rows = [replace(step, attention=row) for step, row in zip(steps, reading.rows, strict=False)]
    return ReadAttention([*with_rows, *steps[len(with_rows) :]], interrupted, failed)


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
