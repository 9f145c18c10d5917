"""The report of `--probs`, `--top` and `--attention` below a reply, and the picture that `--svg` writes.

Attention is computed after the reply has ended, so that showing it cannot change the reply.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from llmcli.commands.shared.options.report import ReportOptions
from llmcli.errors import OutOfMemoryError, UnsupportedModelError, UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.engine import AttentionRow, Step
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.prompt import Message
    from llmcli.views.reply.reply_json import TokenBytes


@dataclass(frozen=True)
class ReadAttention:
    """The steps of a reply with their attention, and why the pass that computes it ended early, if it did."""

    steps: Sequence[Step]
    """Steps have no attention if it was not requested, or if the pass ended before them."""
    interrupted: bool = False
    """Ctrl-C ended the pass."""
    error: OutOfMemoryError | None = None
    """Memory ran out in the pass."""


def check_report(report: ReportOptions, *, is_chat: bool) -> None:
    """Raise `UsageError` for --attention-by message without a conversation."""
    if report.attention and report.attention_by == "message" and not is_chat:
        raise UsageError("--attention-by message needs a conversation; raw text has no messages.")


def read_attention(
    loaded: LoadedModel,
    said: Sequence[Message],
    prompt: Sequence[int],
    steps: Sequence[Step],
    report: ReportOptions,
) -> ReadAttention:
    """Compute the attention of each of `steps`, the reply to the token ids `prompt`, if `report` requests it.

    One pass of the readable model over prompt and reply, with progress on stderr. Ctrl-C ends the pass and keeps the
    attention computed so far. `said` are the messages of the prompt. A note reports steps whose probabilities differ
    from those of the readable model.
    """
    if not report.attention or not steps:
        return ReadAttention(steps)
    from llmcli.inspection.attention.reply import ReplyAttention
    from llmcli.inspection.core.text_spans import Spans

    reading = ReplyAttention(
        loaded,
        prompt,
        [step.id for step in steps],
        spans=Spans(report.attention_by, loaded.tokenizer, said),
        logprobs=any(step.logprob is not None for step in steps),
    )
    return with_attention(reading, steps, loaded.tokenizer.token_bytes)


class AttentionReading(Protocol):
    """Computes the attention of a finished reply; `rows` and `logprobs` hold what is done if it is interrupted."""

    rows: list[AttentionRow]
    """For each token, the attention of the position that predicted it."""
    logprobs: list[float]
    """For each token, its log-probability (nats) in the readable model, if requested."""

    def read(self, progress: Callable[[int, int], None]) -> None:
        """Compute them; `progress` is called with the tokens done and all tokens."""


def with_attention(reading: AttentionReading, steps: Sequence[Step], token_bytes: TokenBytes) -> ReadAttention:
    """Add their attention to `steps`; the rest is as in `read_attention`."""
    from llmcli.views.inspect.readable_difference import TokenProbabilities, difference_note
    from llmcli.views.terminal.progress import progress_bar
    from llmcli.views.widgets.token_table import probability

    interrupted, failed = False, None
    try:
        what = "Reading the attention"
        with progress_bar(what, unit="tokens", estimate=True) as progress:
            reading.read(lambda done, total: progress(what, done, total))
    except KeyboardInterrupt:
        interrupted = True
    except OutOfMemoryError as error:
        failed = error
    except UnsupportedModelError as refusal:
        terminal.note(str(refusal))
        return ReadAttention(steps)
    compared = [
        TokenProbabilities(step.index, token_bytes(step.id), own, math.exp(logprob))
        for step, logprob in zip(steps, reading.logprobs, strict=False)
        if (own := probability(step)) is not None
    ]
    if not (reading.rows or interrupted or failed):
        terminal.note("This model has no attention: its layers remember the text in states.")
    if (note := difference_note(compared)) is not None:
        terminal.note(note)
    with_rows = [replace(step, attention=row) for step, row in zip(steps, reading.rows, strict=False)]
    return ReadAttention([*with_rows, *steps[len(with_rows) :]], interrupted, failed)


def first_candidates(steps: Sequence[Step], top: int) -> list[Step]:
    """`steps` with the `top` most probable candidates each: a page and a record need more than what is printed."""
    return [step if len(step.top) <= top else replace(step, top=step.top[:top]) for step in steps]


def explain(token_bytes: TokenBytes, steps: Sequence[Step], report: ReportOptions) -> None:
    """Write the report to stderr: color legend, summary of the reply, table of tokens if requested or if there are no
    colors, and table of attention.
    """
    if not (report.probs or report.top or report.attention) or not steps:
        return
    colored = report.probs and sys.stdout.isatty() and terminal.console_out().color_system is not None
    console = terminal.console_err()
    for view in _views(token_bytes, steps, report, colored=colored):
        console.print(view)


def reply_page(
    token_bytes: TokenBytes, steps: Sequence[Step], report: ReportOptions, *, prefill: str
) -> RenderableType:
    """The reply with colored tokens, and below it the report that `explain` writes."""
    from rich.console import Group
    from rich.text import Text

    from llmcli.views.terminal.sanitize import visible
    from llmcli.views.widgets.token_table import step_style, styled

    text = styled((token_bytes(step.id), step_style(step)) for step in steps)
    more = _views(token_bytes, steps, replace(report, probs=True), colored=True) if steps else []
    return Group(Text(visible(prefill)) + text, "", *more)


def _views(
    token_bytes: TokenBytes, steps: Sequence[Step], report: ReportOptions, *, colored: bool
) -> list[RenderableType]:
    from rich.text import Text

    from llmcli.views.inspect.attention import NOTE, read_table
    from llmcli.views.widgets.token_table import legend, reply_summary, token_table

    views: list[RenderableType] = [legend(proposed=any(step.origin != "model" for step in steps))] if colored else []
    if report.top or (report.probs and not colored):
        views.append(token_table(steps, report.top, token_bytes))
    if report.probs or report.top:
        views.append(reply_summary(steps))
    rows = [(step.index, token_bytes(step.id), step.attention) for step in steps if step.attention]
    if rows:
        views += [read_table(rows), Text(NOTE, style="dim")]
    return views
