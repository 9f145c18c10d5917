"""Which JSON objects the viewer draws: for each schema its scripts, its explanation, and its table without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.views.page import static_table

_TOKENS = ("measures.js", "colored_text.js", "card.js", "curve.js", "arcs.js", "reply.js")
_COLORS = (
    "Blue is certain, amber is a surprise. model is the probability in the model's own distribution, sampled the one "
    "after temperature and filters. Surprise is -log2 of the model's probability: one bit more halves it. Entropy is "
    "how undecided the model was, 0 bits if only one token was possible."
)
_REPLY_HOW = (
    f"{_COLORS} A probability says how usual a model finds a word in this place, not whether what it says is true. "
    "What was read is the share of attention, weighted by the size of what each token contributes, over all heads and "
    "blocks: it shows where attention went, not why."
)
_SCORE_HOW = (
    f"{_COLORS} The first token has nothing before it and is not scored. A low surprise means that the model finds a "
    "text usual, perhaps because it was trained on it; it does not mean that the text is true or good."
)


@dataclass(frozen=True)
class Drawing:
    """How the viewer draws the JSON objects of one kind."""

    name: str
    """The name of the drawing in the scripts."""
    scripts: tuple[str, ...]
    """The files that draw it, besides the core."""
    table: Callable[[Mapping[str, Any]], str]
    """Makes the table that is shown without scripts, as HTML."""
    how: Callable[[], str]
    """Gives the explanation of the view: how to read it, and what not to conclude."""


_DRAWINGS = {
    "reply": Drawing("reply", _TOKENS, static_table.tokens, lambda: _REPLY_HOW),
    "llmcli.score/1": Drawing("reply", _TOKENS, static_table.tokens, lambda: _SCORE_HOW),
}
SCHEMAS = tuple(_DRAWINGS)
"""The schemas that have a drawing; "reply" stands for the object of `llm generate`, which has no schema."""


def drawing_of(value: Mapping[str, Any]) -> Drawing | None:
    """The drawing for a JSON object, by its schema, or for a reply by its fields; None if there is none."""
    if "schema" not in value and {"model", "prompt", "finish_reason", "tokens"} <= value.keys():
        return _DRAWINGS["reply"]
    return _DRAWINGS.get(str(value.get("schema")))
