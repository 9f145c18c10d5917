"""`llm inspect cost`: parameters, FLOPs and cache size of a model, from its headers."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag
from llmcli.errors import UsageError


@inspect_command(text="A text to compute the cost for. -: piped text.", weights=False, computes=False)
def cost(
    subject: InspectContext,
    context: Annotated[
        int | None,
        flag(
            "--context", metavar="N", min=1, env=False, panel=SHOW, help="Also compute the cost for a text of N tokens."
        ),
    ] = None,
) -> InspectResult:
    """What does a model cost? Parameters and FLOPs of each part, cache and FLOPs for each length of text."""
    if subject.text is None and subject.chat:
        raise UsageError("--chat needs a text.")
    length = None if subject.text is None else len(subject.ids_without_weights)

    from llmcli.inspection.evaluation.cost import model_cost
    from llmcli.views.inspect.cost import NOTE, SCHEMA, CostView

    checkpoint = subject.checkpoint
    result = model_cost(checkpoint.name, checkpoint.config, context=context, text_tokens=length)
    return InspectResult(CostView(result), SCHEMA, result, NOTE)
