"""Generate the reply of a run, or with --samples several replies, and write them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate.finish import end, reply_value, show_report, write_files
from llmcli.commands.generate.stream import stream_reply
from llmcli.commands.generate.structured_output import IncompleteFormError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.prepare import ReplyRun


def answer(run: ReplyRun) -> None:
    """Generate and write one reply.

    Raises:
        LlmcliError: the reply failed.
        typer.Exit: it was interrupted.
    """
    reply = stream_reply(run)
    if run.options.output.as_json:
        terminal.write_line(json_text(reply_value(run, reply)))
    show_report(run, reply)
    write_files(run, reply)
    end(run, reply)


def answer_several(run: ReplyRun) -> None:
    """Generate and write the replies of --samples, one after another, with the seeds that follow the first one's.

    The prompt is read once. A reply without the requested form does not stop the others; Ctrl-C does. With --json what
    is complete is printed in any case.

    Raises:
        LlmcliError: a reply failed.
        typer.Exit: a reply was interrupted, or did not have the requested form.
    """
    output, params = run.options.output, run.params
    if params.temperature == 0 or params.top_k == 1:
        terminal.note("All replies are the same: only the most probable token can be chosen. Give a --temperature.")
    values: list[dict[str, object]] = []
    failed = False
    try:
        for number in range(output.samples):
            source = run.source if number == 0 else run.source.with_seed((params.seed or 0) + number)
            one = replace(run, source=source, sample=number)
            if not (output.as_json or output.as_jsonl):
                _write_heading(one)
            with closing(source):
                try:
                    reply = stream_reply(one)
                except IncompleteFormError as error:
                    terminal.error(f"Reply {number + 1} of {output.samples}: {error}")
                    failed = True
                    continue
                if output.as_json:
                    values.append(reply_value(one, reply))
                show_report(one, reply)
                end(one, reply)
    finally:
        if values:
            terminal.write_line(json_text(values))
    if failed:
        raise typer.Exit(1)


def _write_heading(run: ReplyRun) -> None:
    """Write a line before a reply: a dim rule on a terminal, elsewhere "--- 1 of 3, seed 5 ---"."""
    assert run.sample is not None
    count, seed = f"{run.sample + 1} of {run.options.output.samples}", run.params.seed
    if not terminal.is_terminal(terminal.stdout()):
        terminal.write_line(f"--- {count}, seed {seed} ---")
        return
    from rich.rule import Rule

    terminal.console_out().print(Rule(f"{count} · seed {seed}", align="left", style="dim"), style="dim")
