"""`llm trace`: causal tracing, which shows where in a model the answer comes from."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import RUNNING, SHOW, flag, text


@inspect_command(text="The text whose next token is traced. Default or -: piped text.", title="llm trace")
def trace(
    context: InspectContext,
    name: Annotated[
        str,
        flag("--subject", metavar="S", callback=text, env=False, panel=SHOW, help="The words in TEXT to scramble."),
    ],
    target: Annotated[
        str | None,
        flag(
            "--target",
            metavar="TOKEN",
            callback=text,
            env=False,
            panel=SHOW,
            help="Trace this token, as in ' Paris'. Default: the most probable one.",
        ),
    ] = None,
    samples: Annotated[
        int, flag("--samples", metavar="N", min=1, env=False, panel=RUNNING, help="Number of random repetitions.")
    ] = 5,
    seed: Annotated[
        int, flag("--seed", metavar="N", min=0, max=2**63 - 1, env=False, panel=RUNNING, help="Random seed.")
    ] = 0,
) -> InspectResult:
    """Scramble words of a text, restore single states, and show which bring the answer back (causal tracing)."""
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.causal.causal_trace import causal_trace
    from llmcli.inspection.causal.prompt_ablation import find_text
    from llmcli.inspection.residual.logit_attribution import single_token
    from llmcli.views.inspect import causal_trace as views

    at = find_text(loaded.tokenizer, ids, name, within=context.content if context.chat else None)
    answer = None if target is None else single_token(loaded.tokenizer, target)
    with context.progress("Tracing", "states", estimate=True) as progress:
        result = causal_trace(loaded, ids, at, answer=answer, samples=samples, seed=seed, progress=progress)
    return InspectResult(views.causal_trace_view(result), views.SCHEMA, result, views.NOTE)
