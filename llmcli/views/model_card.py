"""`llm show`: a model's architecture as a tree, top to bottom as a token passes through it, and its JSON twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from llmcli.views.stats import size
from llmcli.views.terminal import visible

if TYPE_CHECKING:
    from llmcli.inspection.accounting import ModelAccount
    from llmcli.model.config import LayerConfig, ModelConfig, RopeConfig


@dataclass(frozen=True)
class ModelCard:
    """What there is to tell about a model without reading its weights."""

    name: str
    path: str
    format: str
    family: str
    config: ModelConfig
    account: ModelAccount
    vocabulary: int
    template: str | None
    """Where the chat template comes from."""
    stop_tokens: Sequence[tuple[int, str, Sequence[str]]]
    """Id, text, and the places that declare it."""
    generation_defaults: dict[str, float]
    notes: Sequence[str]


def model_tree(card: ModelCard) -> Tree:
    """The card as a Rich tree."""
    config, account = card.config, card.account
    tree = Tree(_line(card.name, f"{card.family}, {card.format}, {count(account.parameters)} parameters", bold=True))
    tree.add(_line("files", card.path))
    stored = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in account.stored_bytes.items())
    tree.add(_line("stored", f"{size(sum(account.stored_bytes.values()))}: {stored}"))
    model = tree.add(Text("model", style="bold"))
    unused = config.vocab_size - card.vocabulary
    padding = f" ({unused} of them padding)" if unused else ""
    model.add(
        _line(
            "embedding", f"{config.vocab_size} tokens{padding} x {config.hidden_size}", share(card, account.embeddings)
        )
    )
    for first, last, layer in layer_groups(config.layers):
        name = f"block {first}" if first == last else f"blocks {first}-{last}"
        block = model.add(_line(name, f"{last - first + 1} x, RMSNorm before each part, eps {config.norm_eps:g}"))
        block.add(_line("attention", attention_words(config, layer)))
        block.add(_line("rotary positions", rope_words(layer.rope)))
        bias = ", with biases" if config.mlp_bias else ""
        block.add(
            _line(
                "feed-forward", f"gated {config.activation}, {config.hidden_size} -> {config.intermediate_size}{bias}"
            )
        )
    model.add(_line("all attention", "", share(card, account.attention)))
    model.add(_line("all feed-forward", "", share(card, account.feed_forward)))
    head = "the embedding matrix itself" if config.tie_embeddings else "a matrix of its own"
    model.add(_line("output head", head, share(card, account.output_head) if account.output_head else ""))
    context = tree.add(_line("context", f"{config.context_length} tokens"))
    context.add(
        _line("KV cache", f"{size(account.kv_bytes_per_token)} a token, {size(account.kv_bytes_full)} when full")
    )
    tree.add(_line("chat template", f"from {card.template}" if card.template else "none: it continues text"))
    stops = tree.add(Text("stop tokens", style="bold"))
    for token, text, origins in card.stop_tokens:
        stops.add(_line(text, f"{token}, from {', '.join(origins)}"))
    if card.generation_defaults:
        recommended = ", ".join(f"{name} {value:g}" for name, value in card.generation_defaults.items())
        tree.add(_line("recommended sampling", recommended))
    for note in card.notes:
        tree.add(_line("note", note))
    return tree


def model_json(card: ModelCard) -> dict[str, object]:
    """The card as plain JSON values."""
    return asdict(card) | {"parameters": card.account.parameters}


def layer_groups(layers: Sequence[LayerConfig]) -> list[tuple[int, int, LayerConfig]]:
    """Runs of equal layers: first index, last index, what they are."""
    groups: list[tuple[int, int, LayerConfig]] = []
    for index, layer in enumerate(layers):
        if groups and groups[-1][2] == layer:
            groups[-1] = (groups[-1][0], index, layer)
        else:
            groups.append((index, index, layer))
    return groups


def attention_words(config: ModelConfig, layer: LayerConfig) -> str:
    """Heads, their sizes and what they may see, as a model card would put it."""
    heads, kv = config.num_heads, config.num_kv_heads
    kind = "multi-head" if heads == kv else "multi-query" if kv == 1 else "grouped-query"
    words = [f"{kind}, {heads} query heads on {kv} key-value heads of {config.head_dim}"]
    if config.qk_norm:
        words.append("RMSNorm on queries and keys")
    if config.qkv_bias or config.o_bias:
        words.append("with biases on " + " and ".join(["q, k, v"] * config.qkv_bias + ["output"] * config.o_bias))
    words.append("sees everything before it" if layer.window is None else f"sees the last {layer.window} tokens")
    return ", ".join(words)


def rope_words(rope: RopeConfig | None) -> str:
    """The rotation, in words."""
    if rope is None:
        return "none"
    scaling = "" if rope.scaling is None else f", {type(rope.scaling).__name__.removesuffix('Scaling')} scaling"
    return f"theta {rope.theta:g}, {rope.rotary_dim} values of each head{scaling}"


def share(card: ModelCard, parameters: int) -> str:
    """A number of parameters and its share of all."""
    return f"{count(parameters)} parameters, {100 * parameters / card.account.parameters:.0f} %"


def count(number: int) -> str:
    """A count with three digits and a letter."""
    for limit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {letter}"
    return str(number)


def _line(name: str, what: str, more: str = "", *, bold: bool = False) -> Text:
    text = Text(visible(name), style="bold" if bold else "cyan")
    for part, style in ((what, "default not bold"), (more, "dim not bold")):
        if part:
            text.append(f"  {visible(part)}", style=style)
    return text
