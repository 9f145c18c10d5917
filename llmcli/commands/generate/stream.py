"""The reply as it is generated: streamed to stdout, held until its form is complete, or collected for JSON."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.commands.generate import structured_output
from llmcli.commands.generate.json_lines import JsonLines
from llmcli.commands.generate.kept_reply import recording
from llmcli.commands.shared.consume import follow
from llmcli.commands.shared.token_report import ReadAttention, with_attention
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmcli.commands.generate.prepare import ReplyRun
    from llmcli.engine import Event, Finish


@dataclass(frozen=True)
class GeneratedReply:
    """A reply that has ended."""

    read: ReadAttention
    """Its steps, with their attention if requested."""
    finish: Finish


def stream_reply(run: ReplyRun) -> GeneratedReply:
    """Generate the reply and show it as it arrives, as text or JSON lines; with --json nothing is shown yet.

    Raises:
        LlmcliError: the reply ended before it had the requested form.
        typer.Exit: a reply of a requested form was interrupted.
    """
    from llmcli.engine import Interruption
    from llmcli.views.terminal.progress import prefill_progress, progress_bar

    output, report, recorder, source = run.options.output, run.options.report, run.request.recorder, run.source
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar(unit="tokens") as progress, ExitStack() as stack:
        events = source.events(interruption, prefill_progress(progress))
        kept = stack.enter_context(closing(recording(run, events)))
        lines = _json_lines(run) if output.as_jsonl else None
        show = _writer(run) if lines is None else _with_top(lines.show, report.top)
        constrained = None
        if run.request.rule is not None:
            hold = lines is None and not terminal.is_terminal(terminal.stdout())
            constrained = structured_output.ConstrainedReply(source, show, hold=hold)
            show = constrained.receive
        generated, finish = follow(recorder.recording(kept, run.options.candidates), show)
    if constrained is not None and lines is None:
        constrained.end(finish)
    read = ReadAttention(generated)
    if report.attention and generated:
        read = with_attention(source.attention(generated), generated, source.token_bytes)
    if lines is not None:
        lines.end(read.steps)
        if constrained is not None:
            constrained.end(finish)
    return GeneratedReply(read, finish)


def _with_top(show: Callable[[Event], None], top: int) -> Callable[[Event], None]:
    """`show` for steps with the `top` candidates of --top, of which a page needs more."""
    from llmcli.engine import Step

    return lambda event: show(replace(event, top=event.top[:top]) if isinstance(event, Step) else event)


def _json_lines(run: ReplyRun) -> JsonLines:
    """Make the writer of --jsonl, after the run has its conversation."""
    return JsonLines(
        run.begin.model,
        run.params.seed,
        run.source.token_bytes,
        conversation=run.saved.id,
        sample=run.sample,
    )


def _writer(run: ReplyRun) -> Callable[[Event], None] | None:
    """Make the function that writes the reply as text; None with --json."""
    from llmcli.views.reply.writer import ReplyWriter

    if run.options.output.as_json:
        return None
    return ReplyWriter(
        colored=run.options.report.probs,
        prefill=run.begin.prefill,
        thought=run.begin.prefill_thinking,
        newline=not run.options.output.no_newline or run.sample is not None,
    ).show
