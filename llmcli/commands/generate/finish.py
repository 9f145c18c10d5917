"""Output after a reply: its JSON, the report on its tokens, files, notes, and the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from llmcli.commands.shared import output as shared_output
from llmcli.commands.shared.token_report import explain, reply_page
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.prepare import ReplyRun
    from llmcli.commands.generate.stream import GeneratedReply


def reply_value(run: ReplyRun, reply: GeneratedReply) -> dict[str, object]:
    """The whole reply, as --json prints it."""
    from llmcli.views.reply.reply_json import reply_json

    gap = run.options.prompt.fill_in
    return reply_json(
        model=run.begin.model,
        prompt=run.request.text,
        suffix=None if gap is None else gap[1],
        prefill=run.begin.prefill,
        prefill_thinking=run.begin.prefill_thinking,
        seed=run.params.seed,
        steps=reply.read.steps,
        finish=reply.finish,
        token_bytes=run.source.token_bytes,
        conversation=run.saved.id,
    )


def show_report(run: ReplyRun, reply: GeneratedReply) -> None:
    """Write the report of --probs, --top and --attention, unless they are in the JSON."""
    output = run.options.output
    if not (output.as_json or output.as_jsonl):
        explain(run.source.token_bytes, reply.read.steps, run.options.report)


def write_files(run: ReplyRun, reply: GeneratedReply) -> None:
    """Write the files of --html, --svg and --record."""
    options = run.options
    output = options.output
    if output.html is not None or output.svg is not None:
        shared_output.write_files(
            reply_page(run.source.token_bytes, reply.read.steps, options.report, prefill=options.prompt.prefill),
            title=f"llm generate, {run.begin.model}",
            html=output.html,
            svg=output.svg,
        )
    run.request.recorder.write(run.source, reply.finish)


def end(run: ReplyRun, reply: GeneratedReply) -> None:
    """With --stats write the cost of the reply, and note how it ended.

    Raises:
        OutOfMemoryError: there was not enough memory to compute the attention.
        typer.Exit: Ctrl-C ended the reply, or the pass that computes its attention.
    """
    finish, read = reply.finish, reply.read
    if run.options.report.stats:
        from llmcli.views.reply.stats import stats_line

        terminal.console_err().print(stats_line(finish.stats, where=run.source.where), soft_wrap=True)
    if finish.reason == "context":
        terminal.note(f"The context of {run.begin.context_length} tokens is full; the reply ends there.")
    if read.error is not None:
        raise read.error
    if finish.reason == "interrupted" or read.interrupted:
        raise typer.Exit(130)
