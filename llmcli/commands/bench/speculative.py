"""`llm bench --speculative`: measure the gain of speculative decoding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.commands.shared import output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint


def bench_speculative(
    checkpoint: Checkpoint,
    draft: str | None,
    rounds: int,
    options: ModelOptions,
    view_options: ViewOptions,
    out: Path | None,
) -> None:
    """Measure and show the gain of lookup, and of the model named `draft` as draft model."""
    drafting = None if draft is None else find_checkpoint(draft)
    loaded = load_model(checkpoint, options)
    drafter = None if drafting is None else load_model(drafting, options)

    from llmcli.bench.speculative import measure, outcomes, reply_count
    from llmcli.files import replace_text
    from llmcli.views.reply.speculative import NOTE, SCHEMA, speculative_view
    from llmcli.views.terminal.to_json import json_line

    replies = []
    total = reply_count(rounds, draft=drafter is not None)
    with progress_bar("Measuring", unit="replies") as progress:
        for reply in measure(loaded, rounds, draft=drafter, threads=options.threads):
            replies.append(reply)
            progress("Measuring", len(replies), total)
    found = outcomes(replies)
    path = loaded.engine(threads=options.threads).path
    view = speculative_view(loaded.name, path, found)
    output.write_files(view, title="llm bench --speculative", output=view_options)
    draft_name = None if drafter is None else drafter.name
    value = {"model": loaded.name, "draft": draft_name, "path": path, "outcomes": found, "replies": replies}
    if out is not None:
        replace_text(out, f"{json_line(SCHEMA, value)}\n")
    if view_options.as_json:
        terminal.write_line(json_line(SCHEMA, value))
    else:
        terminal.console_out().print(view)
        terminal.note(NOTE)
