"""`llm inspect lens`: the predictions after each block (logit lens)."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared import output
from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag


@inspect_command()
def lens(
    context: InspectContext,
    position: output.Position = None,
    top: Annotated[
        int,
        flag("--top", metavar="K", min=1, env=False, panel=SHOW, help="List the K most probable tokens of each block."),
    ] = 5,
) -> InspectResult:
    """What would the model answer after each block, and from which block on does the answer lead (logit lens)?"""
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.residual.logit_lens import lens as report
    from llmcli.views.inspect import logit_lens as views

    at = output.positions(position, len(ids), default=output.last_positions(len(ids)))
    with context.progress("Reading") as progress:
        result = report(loaded, ids, at, top=top, progress=progress)
    note = views.NOTE_TIED if loaded.config.tie_embeddings else views.NOTE
    return InspectResult(views.LensView(result), views.SCHEMA, result, note)
