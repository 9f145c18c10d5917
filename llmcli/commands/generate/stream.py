"""The reply as it is generated: streamed to stdout, held until its form is complete, or collected for JSON."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.commands.generate import structured_output
from llmcli.commands.generate.json_lines import JsonLines
from llmcli.commands.generate.kept_reply import recording
from llmcli.commands.shared.consume import follow
from llmcli.commands.shared.token_report import ReadAttention, read_attention
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmcli.commands.generate.prepare import Run
    from llmcli.engine import Event, Finish
    from llmcli.engine.guided.constraint import Constraint
    from llmcli.engine.reply.thinking import ThinkingApart
    from llmcli.text.reasoning import ReplyStart


@dataclass(frozen=True)
class GeneratedReply:
    """A reply that has ended."""

    read: ReadAttention
    """Its steps, with their attention if requested."""
    finish: Finish
    prefill: str
    """The given beginning of the answer, which was not generated."""
    prefill_thinking: str
    """The given beginning of the thought."""


def stream_reply(run: Run) -> GeneratedReply:
    """Generate the reply and show it as it arrives, as text or JSON lines; with --json nothing is shown yet.

    Raises:
        LlmcliError: the reply ended before it had the requested form.
        typer.Exit: a reply of a requested form was interrupted.
    """
    from llmcli.engine import Interruption
    from llmcli.views.terminal.progress import progress_bar

    output, report, recorder = run.options.output, run.options.report, run.request.recorder
    apart, constraint, start = _reply_start(run)
    prefill, prefill_thinking = apart.prefill, apart.prefill_thinking
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar(unit="tokens") as progress, ExitStack() as stack:
        events = run.engine.stream(
            run.built.ids,
            run.params,
            probabilities=report.probs or report.top > 0 or _needs_probabilities(run),
            top=recorder.candidates(report.top),
            constraint=constraint,
            start=start,
            interruption=interruption,
            progress=lambda done, total: progress("Reading the prompt", done, total),
        )
        kept = stack.enter_context(closing(recording(run, events)))
        lines = _json_lines(run) if output.as_jsonl else None
        show = _writer(run, apart) if lines is None else lines.show
        constrained = None
        if constraint is not None:
            structured_output.note_no_ending(constraint)
            hold = lines is None and not terminal.is_terminal(terminal.stdout())
            constrained = structured_output.ConstrainedReply(constraint, show, hold=hold)
            show = constrained.receive
        generated, finish = follow(map(apart, recorder.recording(kept, report.top)), show)
    if constrained is not None and lines is None:
        constrained.end(finish, awaits_answer=apart.awaits_answer)
    read = read_attention(run.loaded, run.prompt.messages, run.built.ids, generated, report)
    if lines is not None:
        lines.end(read.steps)
        if constrained is not None:
            constrained.end(finish, awaits_answer=apart.awaits_answer)
    return GeneratedReply(read, finish, prefill, prefill_thinking)


def _reply_start(run: Run) -> tuple[ThinkingApart, Constraint | None, ReplyStart]:
    """Make the separator of thought and answer, the constraint of a requested form, and the reply's start state."""
    from llmcli.engine.guided.constraint import Constraint
    from llmcli.engine.reply.thinking import ThinkingApart

    rule, tokenizer, start = run.request.rule, run.loaded.tokenizer, run.built.start
    apart = ThinkingApart(tokenizer, start, exact=rule is not None)
    if rule is None:
        return apart, None, start
    constraint = Constraint(rule, tokenizer, run.stop_ids, prefill=apart.prefill)
    no_thinking = run.options.prompt.no_thinking
    start = structured_output.form_start(constraint, tokenizer, start, no_thinking=no_thinking)
    return ThinkingApart(tokenizer, start, exact=True), constraint, start


def _json_lines(run: Run) -> JsonLines:
    """Make the writer of --jsonl, after the run has its conversation."""
    return JsonLines(
        run.loaded.name,
        run.params.seed,
        run.loaded.tokenizer.token_bytes,
        conversation=run.saved.id,
        sample=run.sample,
    )


def _needs_probabilities(run: Run) -> bool:
    """Whether the output contains each token's probability even without --probs."""
    output = run.options.output
    return output.as_json or output.as_jsonl or any((output.html, output.svg, output.record))


def _writer(run: Run, apart: ThinkingApart) -> Callable[[Event], None] | None:
    """Make the function that writes the reply as text; None with --json."""
    from llmcli.views.reply.writer import ReplyWriter

    if run.options.output.as_json:
        return None
    return ReplyWriter(
        colored=run.options.report.probs,
        prefill=apart.prefill,
        thought=apart.prefill_thinking,
        newline=not run.options.output.no_newline or run.sample is not None,
    ).show
