"""Output after a reply: its JSON, the report on its tokens, files, notes, and the exit code."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from llmcli.commands.shared import output as shared_output
from llmcli.commands.shared.page_file import viewer_page
from llmcli.commands.shared.token_report import explain, first_candidates, reply_page
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.prepare import ReplyRun
    from llmcli.commands.generate.stream import GeneratedReply


def reply_value(run: ReplyRun, reply: GeneratedReply, *, top: int | None = None) -> dict[str, object]:
    """The whole reply, as --json prints it; `top` is the number of candidates of a token, by default that of --top."""
    from llmcli.views.reply.reply_json import reply_json

    gap = run.options.prompt.fill_in
    return reply_json(
        model=run.begin.model,
        prompt=run.request.text,
        suffix=None if gap is None else gap[1],
        prefill=run.begin.prefill,
        prefill_thinking=run.begin.prefill_thinking,
        seed=run.params.seed,
        steps=first_candidates(reply.read.steps, run.options.report.top if top is None else top),
        finish=reply.finish,
        token_bytes=run.source.token_bytes,
        conversation=run.saved.id,
    )


def show_report(run: ReplyRun, reply: GeneratedReply) -> None:
    """Write the report of --probs, --top and --attention, unless they are in the JSON."""
    output = run.options.output
    if not (output.as_json or output.as_jsonl):
        explain(
            run.source.token_bytes,
            first_candidates(reply.read.steps, run.options.report.top),
            run.options.report,
        )


def write_files(run: ReplyRun, reply: GeneratedReply) -> None:
    """Write the files of --html, --svg and --record."""
    options = run.options
    output = options.output
    if output.wants_page or output.svg is not None:
        steps = first_candidates(reply.read.steps, options.report.top)
        page = None
        if output.wants_page:
            value = reply_value(run, reply, top=options.candidates)
            page = viewer_page(value, page_settings(run))
        shared_output.write_files(
            reply_page(run.source.token_bytes, steps, options.report, prefill=options.prompt.prefill),
            title=f"llm generate, {run.begin.model}",
            output=output,
            page=page,
        )
    run.request.recorder.write(run.source, reply.finish)


def page_settings(run: ReplyRun) -> list[tuple[str, object]]:
    """The model, the prompt, and the settings in effect that are on or always matter, named as their flags."""
    asked, params = run.options.prompt, run.params
    shown = {"temperature", "top_k", "top_p", "seed", "max_tokens", *params.active}
    named: list[tuple[str, object]] = [
        ("model", run.begin.model),
        ("text", run.request.text),
        ("system", asked.system),
        ("chat-template", asked.chat_template),
        ("raw", None if run.begin.is_chat else "yes"),
        *((name.replace("_", "-"), value) for name, value in asdict(params).items() if name in shown),
        *((("stop", ", ".join(params.stop)),) if params.stop else ()),
    ]
    return [(name, value) for name, value in named if value is not None]


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
