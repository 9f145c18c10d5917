"""`llm inspect state`: what recurrent layers remember of a text, and what reaches the answer through them."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.inspect.measured_answer import answer_flag, answer_tokens, check_answer_flags, max_tokens_flag
from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag, text
from llmcli.errors import UsageError


@inspect_command()
def state(
    context: InspectContext,
    position: Annotated[
        int | None,
        flag(
            "--position",
            metavar="N",
            env=False,
            panel=SHOW,
            help="What this token wrote, counted from 0, or from the end if negative. Default: the last.",
        ),
    ] = None,
    hide: Annotated[
        str | None,
        flag(
            "--hide",
            metavar="SPAN",
            callback=text,
            env=False,
            panel=SHOW,
            help="Words of TEXT: how much of the answer depends on them through states, and through attention?",
        ),
    ] = None,
    answer: Annotated[
        str | None,
        answer_flag("With --hide: the answer to measure, with its leading space. Default: the model's own."),
    ] = None,
    max_tokens: Annotated[
        int | None, max_tokens_flag("With --hide: end the model's own answer after N tokens. Default: 5.")
    ] = None,
) -> InspectResult:
    """How long do recurrent layers remember? With --hide: what reached the answer through their states?"""
    for given, name in ((answer, "--answer"), (max_tokens, "--max-tokens")):
        if given is not None and hide is None:
            raise UsageError(f"{name} needs --hide: without it no answer is measured.")
    if position is not None and hide is not None:
        raise UsageError("--position is for what a token wrote, and --hide for what an answer depends on: choose one.")
    check_answer_flags(answer, max_tokens)
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.causal.prompt_ablation import find_text
    from llmcli.inspection.recurrent.memory import memories
    from llmcli.inspection.recurrent.routes import routes
    from llmcli.views.inspect import state as views

    if hide is None:
        at = len(ids) - 1 if position is None else position
        if -len(ids) <= at < 0:
            at += len(ids)
        with context.progress("Reading", "blocks") as progress:
            found = memories(loaded, ids, at, progress)
        return InspectResult(views.memories_view(found), views.SCHEMA, found, views.NOTE)
    hidden = find_text(loaded.tokenizer, ids, hide, within=context.content if context.chat else None)
    said = answer_tokens(context, answer, max_tokens)
    with context.progress("Reading", "passes") as progress:
        result = routes(loaded, ids, said, hidden, progress)
    return InspectResult(views.routes_view(result), views.ROUTES_SCHEMA, result, views.ROUTES_NOTE)
