"""`llm inspect lens`: what the model would say after each of its layers."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.inspect_command import Shown, Subject, looks


@looks()
def lens(
    subject: Subject,
    position: output.Position = None,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="How many tokens to list for a layer.")] = 5,
) -> Shown:
    """Show what the model would say after each layer, and from which one on its answer leads (the logit lens)."""
    loaded, ids = subject.loaded, subject.ids

    from llmcli.inspection.residual.logit_lens import lens as look
    from llmcli.views.inspect import logit_lens as views

    at = output.positions(position, len(ids), default=output.last_positions(len(ids)))
    with subject.progress("Reading") as progress:
        result = look(loaded, ids, at, top=top, progress=progress)
    notes = (views.NOTE, views.NOTE_TIED) if loaded.config.tie_embeddings else (views.NOTE,)
    return Shown(views.LensView(result), views.SCHEMA, result, notes)
