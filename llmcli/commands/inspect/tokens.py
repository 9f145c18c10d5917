"""`llm inspect tokens`: the tokens of a text."""

from __future__ import annotations

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command


@inspect_command(weights=False, computes=False)
def tokens(context: InspectContext) -> InspectResult:
    """Which tokens is the model given? Their text, IDs and bytes, and which are control tokens."""
    ids = context.ids_without_weights

    from llmcli.inspection.evaluation.tokenization import tokenization
    from llmcli.views.inspect.tokenization import NOTE, SCHEMA, tokenization_view

    result = tokenization(context.text_parts.tokenizer, ids)
    return InspectResult(tokenization_view(result), SCHEMA, result, NOTE)
