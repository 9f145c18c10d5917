"""`llm inspect without`: what the model would have said without a part of its prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import text

_EACH_WORD = "*"


@inspect_command()
def without(
    context: InspectContext,
    span: Annotated[
        str,
        typer.Argument(
            metavar="SPAN",
            callback=text,
            help='What to leave out: text that occurs in TEXT, wherever it does; "*" is each word in turn.',
        ),
    ],
    positions: Annotated[
        bool, typer.Option("--positions", help="SPAN is token numbers, as in 4 or 0,3-7, and no text.")
    ] = False,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer",
            metavar="TEXT",
            callback=text,
            help="The answer to look at, with the space it begins with. Default: what the model itself goes on with.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="The most tokens of the model's own answer.")
    ] = 5,
) -> InspectResult:
    """Hide a part of a text from the model, or remove it, and see how much less probable its answer becomes."""
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.causal import prompt_ablation as inspection
    from llmcli.views.inspect import prompt_ablation as views

    within = context.content if context.chat else None
    at: tuple[int, ...] = ()
    if positions:
        at = inspection.parse_positions(span, len(ids))
    elif span != _EACH_WORD:
        at = inspection.find_text(loaded.tokenizer, ids, span, within=within)
    if answer is None:
        said = inspection.own_answer(loaded, ids, max_tokens)
    else:
        said = inspection.answer_ids(loaded.tokenizer, answer)
    if at:
        result = inspection.without_span(loaded, ids, said, at)
        return InspectResult(views.without_view(result), views.SCHEMA, result, views.NOTE)
    with context.progress("Hiding words", "words") as progress:
        scan = inspection.scan_words(loaded, ids, said, within=within, progress=progress)
    return InspectResult(views.words_view(scan), views.WORDS_SCHEMA, scan, views.WORDS_NOTE)
