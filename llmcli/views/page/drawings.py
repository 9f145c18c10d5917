"""Which JSON objects the viewer draws: for each schema its scripts, its explanation, and its table without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.views.page import static_table
from llmcli.views.page.inspect import tables

_TOKENS = ("measures.js", "colored_text.js", "card.js", "curve.js", "arcs.js", "reply.js")
_READING = ("amounts.js", "colored_text.js", "arcs.js", "reading.js")
_MAP = ("inspect/inspect.css", "inspect/token_map.js")
_BARS = ("inspect/inspect.css", "amounts.js", "inspect/signed_bar.js")
_NEURONS = (*_BARS, "colored_text.js", "inspect/neurons.js")
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
    command: str
    """The command that prints the object."""
    scripts: tuple[str, ...]
    """The scripts that draw it, and their styles, besides the core."""
    table: Callable[[Mapping[str, Any]], str]
    """Makes the table that is shown without scripts, as HTML."""
    how: Callable[[], str]
    """Gives the explanation of the view: how to read it, and what not to conclude."""


def _manual(command: str) -> str:
    """The paragraph of the manual about an inspect command."""
    from llmcli.docs import pages

    return pages.paragraph("inspect", command)


_DRAWINGS = {
    "reply": Drawing("reply", "llm generate", _TOKENS, static_table.tokens, lambda: _REPLY_HOW),
    "llmcli.score/1": Drawing("reply", "llm score", _TOKENS, static_table.tokens, lambda: _SCORE_HOW),
    "llmcli.attention/1": Drawing(
        "attention",
        "llm inspect attention",
        (*_READING, "attention.js"),
        static_table.attention,
        lambda: _manual("attention"),
    ),
    "llmcli.attention-pattern/1": Drawing(
        "pattern",
        "llm inspect attention",
        (*_READING, "pattern.js"),
        static_table.pattern,
        lambda: _manual("attention"),
    ),
    "llmcli.attention-heads/1": Drawing(
        "all_heads",
        "llm inspect attention",
        (*_READING, "pattern.js", "grid_keys.js", "all_heads.js"),
        static_table.all_heads,
        lambda: _manual("attention"),
    ),
    "llmcli.heads/1": Drawing(
        "heads",
        "llm inspect heads",
        ("amounts.js", "grid_keys.js", "heads.js"),
        static_table.heads,
        lambda: _manual("heads"),
    ),
    "llmcli.lens/1": Drawing(
        "lens", "llm inspect lens", (*_MAP, "inspect/lens.js"), tables.lens, lambda: _manual("lens")
    ),
    "llmcli.token/1": Drawing(
        "token", "llm inspect token", (*_BARS, "inspect/token.js"), tables.token, lambda: _manual("token")
    ),
    "llmcli.neurons/1": Drawing("neurons", "llm inspect neurons", _NEURONS, tables.neurons, lambda: _manual("neurons")),
    "llmcli.neuron/1": Drawing("neuron", "llm inspect neurons", _NEURONS, tables.neuron, lambda: _manual("neurons")),
    "llmcli.experts/1": Drawing(
        "experts",
        "llm inspect experts",
        (*_MAP, "amounts.js", "inspect/experts.js"),
        tables.experts,
        lambda: _manual("experts"),
    ),
}
SCHEMAS = tuple(_DRAWINGS)
"""The schemas that have a drawing; "reply" stands for the object of `llm generate`, which has no schema."""


def drawing_of(value: Mapping[str, Any]) -> Drawing | None:
    """The drawing for a JSON object, by its schema, or for a reply by its fields; None if there is none."""
    if "schema" not in value and {"model", "prompt", "finish_reason", "tokens"} <= value.keys():
        return _DRAWINGS["reply"]
    return _DRAWINGS.get(str(value.get("schema")))
