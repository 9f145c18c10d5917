"""`llm inspect neurons`: the neurons that add most to a token's logit, or one neuron along a text."""

from __future__ import annotations

from typing import Annotated, Literal

from llmcli.commands.shared import output
from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag
from llmcli.errors import UsageError


@inspect_command()
def neurons(
    context: InspectContext,
    position: Annotated[
        int,
        flag(
            "--position",
            metavar="N",
            env=False,
            panel=SHOW,
            help="After this token, counted from 0, or from the end if negative.",
        ),
    ] = -1,
    target: Annotated[
        str | None,
        flag(
            "--target",
            metavar="TOKEN",
            env=False,
            panel=SHOW,
            help="Explain the logit of this token. Default: the most probable one.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        flag("--layer", metavar="L", env=False, panel=SHOW, help="With --neuron: its block, counted from 0."),
    ] = None,
    neuron: Annotated[
        int | None,
        flag(
            "--neuron",
            metavar="N",
            env=False,
            panel=SHOW,
            help="With --layer: only this neuron, at every token of the text.",
        ),
    ] = None,
    expert: Annotated[
        str | None,
        flag(
            "--expert", metavar="E", env=False, panel=SHOW, help='With --neuron: the number of its expert, or "shared".'
        ),
    ] = None,
    top: Annotated[
        int, flag("--top", metavar="K", min=1, env=False, panel=SHOW, help="List the K strongest neurons.")
    ] = 10,
) -> InspectResult:
    """Which neurons added most to the next token's logit? With --layer and --neuron: one neuron along the text."""
    if (layer is None) != (neuron is None):
        raise UsageError("Give --layer and --neuron together: neurons are numbered within their block.")
    if neuron is None and expert is not None:
        raise UsageError("--expert needs --layer and --neuron.")
    if neuron is not None and target is not None:
        raise UsageError("--target does not go with --neuron: a neuron along a text is not about one token.")
    of_expert = _expert(expert)
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.feed_forward.neurons import neuron_along
    from llmcli.inspection.feed_forward.neurons import neurons as strongest
    from llmcli.inspection.residual.logit_attribution import single_token
    from llmcli.views.inspect import neurons as views

    with context.progress("Reading") as progress:
        if layer is not None and neuron is not None:
            along = neuron_along(loaded, ids, layer, neuron, expert=of_expert, progress=progress)
            return InspectResult(views.NeuronAlongView(along), views.ALONG_SCHEMA, along, views.ALONG_NOTE)
        (at,) = output.positions([position], len(ids), default=())
        wanted = None if target is None else single_token(loaded.tokenizer, target)
        found = strongest(loaded, ids, at, target=wanted, count=top, progress=progress)
    return InspectResult(views.NeuronsView(found), views.SCHEMA, found, views.NOTE)


def _expert(expert: str | None) -> int | Literal["shared"] | None:
    if expert is None or expert == "shared":
        return expert  # type: ignore[return-value]
    try:
        return int(expert)
    except ValueError:
        raise UsageError(f'--expert {expert} is neither the number of an expert nor "shared".') from None
