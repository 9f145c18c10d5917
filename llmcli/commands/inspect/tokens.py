"""`llm inspect tokens`: a text as the model is given it."""

from __future__ import annotations

from llmcli.commands.shared.inspect_command import Shown, Subject, looks


@looks(weights=False, computes=False)
def tokens(subject: Subject) -> Shown:
    """Show the tokens of a text: their pieces, ids and bytes, and which of them are control tokens."""
    ids = subject.ids_without_weights

    from llmcli.inspection.evaluation.tokenization import tokenization
    from llmcli.views.inspect.tokenization import SCHEMA, tokenization_view

    result = tokenization(subject.text_parts.tokenizer, ids)
    return Shown(tokenization_view(result), SCHEMA, result)
