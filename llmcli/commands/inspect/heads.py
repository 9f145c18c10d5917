"""`llm inspect heads`: scores of every attention head on a repeated text, such as induction."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import RUNNING, SHOW, flag
from llmcli.errors import UsageError


@inspect_command(text="The text to repeat. -: piped text. Default: four texts of random tokens.")
def heads(
    context: InspectContext,
    ablate: Annotated[
        int,
        flag(
            "--ablate",
            metavar="N",
            min=0,
            env=False,
            panel=SHOW,
            help="Switch off the N strongest induction heads, then N other heads, and compare the loss.",
        ),
    ] = 0,
    seed: Annotated[
        int,
        flag(
            "--seed",
            metavar="N",
            min=0,
            max=2**63 - 1,
            env=False,
            panel=RUNNING,
            help="Random seed for the random tokens and the other heads.",
        ),
    ] = 0,
) -> InspectResult:
    """What does each head look at when a text repeats: the token before, the same, the one after it, or the first?"""
    if context.chat and context.text is None:
        raise UsageError("--chat makes a TEXT a message; random tokens are none. Give a text, or leave --chat out.")
    # Without TEXT the input is random tokens; standard input is not read.
    ids = None if context.text is None else context.ids
    loaded = context.loaded

    from llmcli.inspection.attention.head_scores import ablate_induction, head_atlas, random_repeats, text_repeats
    from llmcli.views.inspect.head_scores import NOTE, SCHEMA, heads_view

    repeats = random_repeats(loaded, seed=seed) if ids is None else text_repeats(loaded, ids)
    with context.progress("Looking at heads", "blocks") as progress:
        atlas = head_atlas(loaded, repeats, progress)
    if ablate:
        with context.progress("Switching heads off", "passes") as progress:
            ablation = ablate_induction(loaded, repeats, atlas.heads, ablate, seed=seed, progress=progress)
        atlas = replace(atlas, ablation=ablation)
    return InspectResult(heads_view(atlas), SCHEMA, atlas, NOTE)
