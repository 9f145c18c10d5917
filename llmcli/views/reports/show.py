"""`llm show`: a model's architecture as a tree, in the order a token passes through it, and its JSON form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from llmcli.model.cache.marks import most_marks
from llmcli.model.mixer_config import mixer_name
from llmcli.sizes import size
from llmcli.views.terminal.colors import TEAL
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.mixer_terms import mixer_words
from llmcli.views.widgets.model_terms import attention_words, feed_forward_words, logit_words, norm_words, rope_words

if TYPE_CHECKING:
    from llmcli.inspection.evaluation.flops import ModelAccount
    from llmcli.model import LayerConfig, ModelConfig


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model that need only its headers, not its weights."""

    name: str
    path: str
    format: str
    family: str
    config: ModelConfig
    account: ModelAccount
    vocabulary: int
    template: str | None
    """Source of the chat template; None if there is none."""
    stop_tokens: Sequence[tuple[int, str, Sequence[str]]]
    """Id, text, and the files or fields that declare it."""
    generation_defaults: dict[str, float]
    notes: Sequence[str]
    runs: str = ""
    """Device and implementation that would run it."""


def model_tree(card: ModelCard) -> Tree:
    """The card as a Rich tree."""
    config, account = card.config, card.account
    what = f"{card.family}, {card.format}, {count(account.parameters)} parameters"
    if account.idle_for_a_token:
        what += f", {count(account.parameters - account.idle_for_a_token)} of them for each token"
    tree = Tree(_line(card.name, what, bold=True))
    tree.add(_line("files", card.path))
    stored = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in account.stored_bytes.items())
    tree.add(_line("stored", f"{size(sum(account.stored_bytes.values()))}: {stored}"))
    model = tree.add(Text("model", style="bold"))
    unused = config.vocab_size - card.vocabulary
    padding = f" ({unused} of them padding)" if unused else ""
    per_layer = config.per_layer
    vectors = 0 if per_layer is None else per_layer.vocab_size * config.num_layers * per_layer.size
    normed = "" if config.embed_norm is None else ", normalized"
    tokens = f"{config.vocab_size} tokens{padding} x {config.hidden_size}{normed}"
    tables = [layer.ngram for layer in config.layers if layer.ngram is not None]
    ngrams = sum(table.rows * table.size // len(table.parts) for table in tables)
    model.add(_line("embedding", tokens, share(card, account.embeddings - vectors - ngrams)))
    if config.learned_positions:
        model.add(_line("learned positions", f"{config.context_length} x {config.hidden_size}"))
    if per_layer is not None:
        shape = f"{per_layer.vocab_size} tokens x {config.num_layers} blocks x {per_layer.size}"
        model.add(_line("per-layer embeddings", shape, share(card, vectors)))
    if tables:
        shape = f"{tables[0].rows} rows x {tables[0].size // len(tables[0].parts)}"
        blocks = f"{len(tables)} blocks, {shape} in the first" if len(tables) > 1 else f"one block, {shape}"
        model.add(_line("n-gram embeddings", f"in {blocks}", share(card, ngrams)))
    for indices, layer in layer_groups(config.layers):
        block = model.add(_line(block_name(indices), f"{len(indices)} x, {norm_words(config, layer)}"))
        if layer.attends:
            block.add(_line("attention", attention_words(config, layer)))
            block.add(_line("rotary positions", rope_words(layer.rope)))
        for mixer in layer.mixers:
            block.add(_line(mixer_name(mixer), mixer_words(mixer)))
        if layer.parts != "mixer":
            block.add(_line("feed-forward" if layer.experts is None else "experts", feed_forward_words(config, layer)))
    model.add(_line("all attention", "", share(card, account.attention)))
    if account.recurrent:
        model.add(_line("all recurrent", "", share(card, account.recurrent)))
    model.add(_line("all feed-forward", "", share(card, account.feed_forward)))
    head = ("tied to the embedding" if config.tie_embeddings else "a separate matrix") + logit_words(config)
    model.add(_line("output head", head, share(card, account.output_head) if account.output_head else ""))
    context = tree.add(_line("context", f"{config.context_length} tokens"))
    full = f"{size(account.kv_bytes_full)} when full, {size(account.kv_bytes_full_int8)} with --kv-cache int8"
    context.add(_line("KV cache", f"{size(account.kv_bytes_per_token)} a token, {full}"))
    if account.state_bytes:
        marks = f"and up to {most_marks(account.state_bytes)} earlier ones to go back to"
        context.add(_line("states", f"{size(account.state_bytes)} for a text of any length, {marks}"))
    tree.add(_line("chat template", f"from {card.template}" if card.template else "none: a model that continues text"))
    stops = tree.add(Text("stop tokens", style="bold"))
    for token, text, origins in card.stop_tokens:
        stops.add(_line(text, f"{token}, from {', '.join(origins)}"))
    if card.generation_defaults:
        recommended = ", ".join(f"{name} {value:g}" for name, value in card.generation_defaults.items())
        tree.add(_line("recommended sampling", recommended))
    if card.runs:
        tree.add(_line("runs", card.runs))
    for note in card.notes:
        tree.add(_line("note", note))
    return tree


def model_json(card: ModelCard) -> dict[str, object]:
    """The card as plain JSON values."""
    return asdict(card) | {"parameters": card.account.parameters}


def layer_groups(layers: Sequence[LayerConfig]) -> list[tuple[list[int], LayerConfig]]:
    """Group equal layers, in order of appearance: (indices, configuration)."""
    groups: dict[LayerConfig, list[int]] = {}
    for index, layer in enumerate(layers):
        groups.setdefault(layer, []).append(index)
    return [(indices, layer) for layer, indices in groups.items()]


def block_name(indices: Sequence[int]) -> str:
    """A name such as "block 2" or "blocks 0-4, 6-10"; the middle of a long list is left out."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    names = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    if len(names) > 4:
        names = [*names[:3], "...", names[-1]]
    return ("block " if len(indices) == 1 else "blocks ") + ", ".join(names)


def share(card: ModelCard, parameters: int) -> str:
    """A number of parameters and its share of the model's."""
    return f"{count(parameters)} parameters, {100 * parameters / card.account.parameters:.0f} %"


def count(number: int) -> str:
    """A count with three digits and k, M or B."""
    for limit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {letter}"
    return str(number)


def _line(name: str, what: str, more: str = "", *, bold: bool = False) -> Text:
    text = Text(visible(name), style="bold" if bold else TEAL)
    for part, style in ((what, "default not bold"), (more, "dim not bold")):
        if part:
            text.append(f"  {visible(part)}", style=style)
    return text
