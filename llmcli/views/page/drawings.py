"""Which JSON objects the viewer draws: for each schema its scripts, its explanation, and its table without scripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.views.page import static_table
from llmcli.views.page.experiments import tables as experiment_tables
from llmcli.views.page.inspect import tables

_TOKENS = ("measures.js", "colored_text.js", "card.js", "curve.js", "arcs.js", "reply.js")
_READING = ("amounts.js", "colored_text.js", "arcs.js", "attention/reading.js")
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
_COMPARE_HOW = (
    "KL divergence is how much B's prediction at a token differs from A's: 0 bits if both are the same. A small one on "
    "one text does not mean that the models agree on others, and a large one does not say which of them is right. What "
    "each writes is its most probable token each time; after the first that differs, each reads another text, so later "
    "differences follow from that one."
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
        (*_READING, "attention/attention.js"),
        static_table.attention,
        lambda: _manual("attention"),
    ),
    "llmcli.attention-pattern/1": Drawing(
        "pattern",
        "llm inspect attention",
        (*_READING, "attention/pattern.js"),
        static_table.pattern,
        lambda: _manual("attention"),
    ),
    "llmcli.attention-heads/1": Drawing(
        "all_heads",
        "llm inspect attention",
        (*_READING, "attention/pattern.js", "attention/grid_keys.js", "attention/all_heads.js"),
        static_table.all_heads,
        lambda: _manual("attention"),
    ),
    "llmcli.heads/1": Drawing(
        "heads",
        "llm inspect heads",
        ("amounts.js", "attention/grid_keys.js", "attention/heads.js"),
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
    "llmcli.without/1": Drawing(
        "without",
        "llm inspect without",
        ("measures.js", "colored_text.js", "experiments/without.js"),
        experiment_tables.without,
        lambda: _manual("without"),
    ),
    "llmcli.without-words/1": Drawing(
        "withoutWords",
        "llm inspect without",
        ("measures.js", "colored_text.js", "experiments/without.js"),
        experiment_tables.words,
        lambda: _manual("without"),
    ),
    "llmcli.needle/1": Drawing(
        "needle",
        "llm inspect needle",
        ("experiments/chart.js", "experiments/needle.js"),
        experiment_tables.needle,
        lambda: _manual("needle"),
    ),
    "llmcli.cost/1": Drawing(
        "cost",
        "llm inspect cost",
        ("experiments/chart.js", "experiments/cost.js"),
        experiment_tables.cost,
        lambda: _manual("cost"),
    ),
    "llmcli.causal-trace/1": Drawing(
        "trace",
        "llm trace",
        ("amounts.js", "experiments/chart.js", "experiments/trace.js"),
        experiment_tables.trace,
        lambda: _manual("trace"),
    ),
    "llmcli.compare/1": Drawing(
        "compare",
        "llm compare",
        ("measures.js", "colored_text.js", "experiments/chart.js", "experiments/compare.js"),
        experiment_tables.comparison,
        lambda: _COMPARE_HOW,
    ),
}
SCHEMAS = tuple(_DRAWINGS)
"""The schemas that have a drawing; "reply" stands for the object of `llm generate`, which has no schema."""


def drawing_of(value: Mapping[str, Any]) -> Drawing | None:
    """The drawing for a JSON object, by its schema, or for a reply by its fields; None if there is none."""
    if "schema" not in value and {"model", "prompt", "finish_reason", "tokens"} <= value.keys():
        return _DRAWINGS["reply"]
    return _DRAWINGS.get(str(value.get("schema")))
