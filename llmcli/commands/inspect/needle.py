"""`llm inspect needle`: does a model find a fact, wherever in the text it stands?"""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.model import Readable
from llmcli.errors import UsageError


@inspect_command(text=None, chat=False)
def needle(
    context: InspectContext,
    facts: Annotated[
        int, typer.Option("--facts", metavar="K", help="Facts in a text, one of which is asked for.")
    ] = 20,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", help="Texts for each depth. More give narrower ranges: 30 take three times as long."
        ),
    ] = 10,
    depths: Annotated[
        str, typer.Option("--depths", metavar="LIST", help="Where the fact stands, in percent of the others.")
    ] = "0,25,50,75,100",
    context_tokens: Annotated[
        int,
        typer.Option(
            "--context-tokens", metavar="N", min=0, help="Lengthen texts to about N tokens by neutral sentences."
        ),
    ] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the chat template, not in raw text.")] = False,
    readable: Readable = False,
) -> InspectResult:
    """Ask for one fact among many, at several depths of a text, and show how probable the right answer is."""
    places = _numbers(depths)
    loaded = context.load(precise=readable)

    from llmcli.inspection.evaluation.needle import needle as look_for_needle
    from llmcli.views.inspect.needle import NOTE, SCHEMA, NeedleView

    with context.progress("Asking", "texts", estimate=True) as progress:
        result = look_for_needle(
            loaded,
            facts=facts,
            seeds=seeds,
            depths=places,
            chat=chat,
            context_tokens=context_tokens,
            readable=readable,
            progress=progress,
        )
    return InspectResult(NeedleView(result), SCHEMA, result, NOTE)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--depths {text} is not a list of percentages, as in 0,50,100.") from None
