"""`llm inspect needle`: how well a model retrieves a fact at several depths of a text."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import PROMPT, SHOW, flag
from llmcli.commands.shared.options.model import Readable
from llmcli.errors import UsageError


@inspect_command(text=None, chat=False)
def needle(
    context: InspectContext,
    facts: Annotated[
        int,
        flag("--facts", metavar="K", env=False, panel=SHOW, help="Put K facts into a text and ask for one of them."),
    ] = 20,
    seeds: Annotated[
        int,
        flag(
            "--seeds",
            metavar="N",
            env=False,
            panel=SHOW,
            help="Ask in N random texts for each depth: 30 give narrower ranges, in three times the time.",
        ),
    ] = 10,
    depths: Annotated[
        str,
        flag(
            "--depths",
            metavar="LIST",
            env=False,
            panel=SHOW,
            help="Place the fact at these depths, in percent of the text.",
        ),
    ] = "0,25,50,75,100",
    context_tokens: Annotated[
        int,
        flag(
            "--context-tokens",
            metavar="N",
            min=0,
            env=False,
            panel=SHOW,
            help="Lengthen each text to about N tokens with neutral sentences.",
        ),
    ] = 0,
    chat: Annotated[
        bool, flag("--chat", env=False, panel=PROMPT, help="Ask in a message in the chat template, not in raw text.")
    ] = False,
    readable: Readable = False,
) -> InspectResult:
    """Does the model find one fact among many, at several depths of a text?"""
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
