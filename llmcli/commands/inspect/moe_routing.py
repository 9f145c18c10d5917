"""`llm inspect experts`: the experts to which a mixture-of-experts model routes each token."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag


@inspect_command()
def experts(
    context: InspectContext,
    layer: Annotated[
        int | None,
        flag(
            "--layer",
            metavar="L",
            env=False,
            panel=SHOW,
            help="Only this block, counted from 0, with the weight of every expert.",
        ),
    ] = None,
) -> InspectResult:
    """Which experts does each token go to, and how evenly are they used?"""
    from llmcli.inspection.feed_forward.moe_routing import check_has_experts, expert_routing
    from llmcli.views.inspect.moe_routing import NOTE, SCHEMA, ExpertsView

    # From the headers, so that a dense model is refused before it is loaded.
    check_has_experts(context.checkpoint.name, context.checkpoint.config)
    loaded, ids = context.loaded, context.ids
    with context.progress("Reading") as progress:
        result = expert_routing(loaded, ids, only=layer, progress=progress)
    return InspectResult(ExpertsView(result), SCHEMA, result, NOTE)
