"""What `llm bench` does with `--speculative`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.commands.shared import output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    device: str
    dtype: str
    quantize: str | None
    threads: int | None

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """The model, with progress where a person waits."""
        return load_model(
            checkpoint,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            threads=self.threads,
        )


def bench_speculative(
    checkpoint: Checkpoint,
    draft: str | None,
    rounds: int,
    how: Loading,
    *,
    as_json: bool,
    out: Path | None,
    html: Path | None,
    svg: Path | None,
) -> None:
    """Measure and show what lookup gains, and what a `draft` model does, with the model found."""
    drafting = None if draft is None else find_checkpoint(draft)
    loaded = how.load(checkpoint)
    drafter = None if drafting is None else how.load(drafting)

    from llmcli.bench.speculative import measure, outcomes, reply_count
    from llmcli.files import replace_text
    from llmcli.views.reply.speculative import NOTE, SCHEMA, speculative_view
    from llmcli.views.terminal.to_json import json_line

    replies = []
    total = reply_count(rounds, draft=drafter is not None)
    with progress_bar(unit="replies") as progress:
        for reply in measure(loaded, rounds, draft=drafter, threads=how.threads):
            replies.append(reply)
            progress("Measuring", len(replies), total)
    found = outcomes(replies)
    path = loaded.engine(threads=how.threads).path
    view = speculative_view(loaded.name, path, found)
    output.write_files(view, title="llm bench --speculative", html=html, svg=svg)
    draft_name = None if drafter is None else drafter.name
    value = {"model": loaded.name, "draft": draft_name, "path": path, "outcomes": found, "replies": replies}
    if out is not None:
        replace_text(out, f"{json_line(SCHEMA, value)}\n")
    if as_json:
        terminal.write_line(json_line(SCHEMA, value))
    else:
        terminal.console_out().print(view)
        terminal.note(NOTE)
