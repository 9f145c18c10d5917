"""`llm inspect token`: alternatives, attention, heads and neurons of one token of a text."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import RUNNING, SHOW, flag
from llmcli.errors import UsageError
from llmcli.views.terminal.progress import progress_bar


@inspect_command()
def token(
    context: InspectContext,
    index: Annotated[
        str,
        typer.Argument(
            metavar="N",
            help='The token, counted from 0, or from the end if negative; "next" is the one after the text.',
        ),
    ],
    target: Annotated[
        str | None,
        flag(
            "--target",
            metavar="TOKEN",
            env=False,
            panel=SHOW,
            help="Explain this token at that position instead, as in ' Paris'.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        flag(
            "--verify",
            env=False,
            panel=SHOW,
            help="Test the heads and neurons: switch them off, one by one and all together.",
        ),
    ] = False,
    top: Annotated[
        int, flag("--top", metavar="K", min=1, env=False, panel=SHOW, help="List K candidates, heads and neurons.")
    ] = 5,
    seed: Annotated[
        int,
        flag(
            "--seed",
            metavar="N",
            env=False,
            panel=RUNNING,
            help="Random seed for the heads and neurons that --verify compares with.",
        ),
    ] = 0,
) -> InspectResult:
    """Why this token? Its alternatives, the attention, and the heads and neurons that added most to its logit."""
    number = _number(index)
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.residual.logit_attribution import single_token
    from llmcli.inspection.token_card import inspect_token
    from llmcli.views.inspect import token_card as views

    with progress_bar("Reading", unit="steps") as progress:
        result = inspect_token(
            loaded,
            ids,
            len(ids) if number is None else number,
            target=None if target is None else single_token(loaded.tokenizer, target),
            verify=verify,
            top=top,
            seed=seed,
            progress=progress,
        )
    note = views.NOTE if verify else views.NOTE_UNVERIFIED
    return InspectResult(views.CardView(result), views.SCHEMA, result, note)


def _number(index: str) -> int | None:
    if index == "next":
        return None
    try:
        return int(index)
    except ValueError:
        raise UsageError(f'{index} is no place in a text. Give the number of a token, or "next".') from None
