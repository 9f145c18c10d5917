"""`llm inspect without`: how the answer changes without a part of the prompt (prompt ablation)."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.inspect.measured_answer import answer_flag, answer_tokens, check_answer_flags, max_tokens_flag
from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import PROMPT, flag, text

_EACH_WORD = "*"


@inspect_command()
def without(
    context: InspectContext,
    span: Annotated[
        str,
        typer.Argument(
            metavar="SPAN",
            callback=text,
            help='The words of TEXT to leave out, wherever they occur; "*" leaves out each word in turn.',
        ),
    ],
    positions: Annotated[
        bool,
        flag("--positions", env=False, panel=PROMPT, help="Read SPAN as token numbers, as in 4 or 0,3-7, not as text."),
    ] = False,
    answer: Annotated[
        str | None,
        answer_flag("The answer to measure, with its leading space. Default: the model's own."),
    ] = None,
    max_tokens: Annotated[int | None, max_tokens_flag("End the model's own answer after N tokens. Default: 5.")] = None,
) -> InspectResult:
    """How much does the answer depend on a part of the text? Its probability with the part hidden, and removed."""
    check_answer_flags(answer, max_tokens)
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.causal import prompt_ablation as inspection
    from llmcli.views.inspect import prompt_ablation as views

    within = context.content if context.chat else None
    at: tuple[int, ...] = ()
    if positions:
        at = inspection.parse_positions(span, len(ids))
    elif span != _EACH_WORD:
        at = inspection.find_text(loaded.tokenizer, ids, span, within=within)
    said = answer_tokens(context, answer, max_tokens)
    if at:
        with context.progress("Reading", "passes") as progress:
            result = inspection.without_span(loaded, ids, said, at, progress=progress)
        return InspectResult(views.without_view(result), views.SCHEMA, result, views.NOTE)
    with context.progress("Hiding words", "words") as progress:
        scan = inspection.scan_words(loaded, ids, said, within=within, progress=progress)
    return InspectResult(views.words_view(scan), views.WORDS_SCHEMA, scan, views.WORDS_NOTE)
