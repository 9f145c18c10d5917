"""`llm inspect lens`: what the model would say after each of its layers."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.inspect import base
from llmcli.commands.inspect.looking import Shown, Subject, looks


@looks()
def lens(
    subject: Subject,
    position: base.Position = None,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="How many tokens to list for a layer.")] = 5,
) -> Shown:
    """Show what the model would say after each layer, and from which one on its answer leads (the logit lens)."""
    loaded, ids = subject.loaded, subject.ids

    from llmcli.inspection.residual.logit_lens import lens as look
    from llmcli.views.inspect import logit_lens as views

    at = base.positions(position, len(ids), default=base.last_positions(len(ids)))
    with subject.progress("Reading") as progress:
        result = look(loaded, ids, at, top=top, progress=progress)
    notes = (views.NOTE, views.NOTE_TIED) if loaded.config.tie_embeddings else (views.NOTE,)
    return Shown(views.LensView(result), views.SCHEMA, result, notes)
