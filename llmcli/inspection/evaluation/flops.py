"""Parameters of a model by component, stored bytes, and the size of its KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.model.parameters import parameters_of, used_by_a_token

# A part of a parameter's name, and its box; the first that fits. What is beside both is feed-forward.
_BOXES = (
    ("ngram.table", "embeddings"),
    ("self_attn", "attention"),
    ("linear_attn", "recurrent"),
    ("mamba", "recurrent"),
    ("rglru", "recurrent"),
    ("mlstm", "recurrent"),
    ("time_mixing", "recurrent"),
    (".conv.", "recurrent"),
    ("laurel", "attention"),
    ("mlp", "feed_forward"),
    ("altup", "feed_forward"),
    ("_hc.", "feed_forward"),
    ("ngram", "feed_forward"),
    ("_residual.", "feed_forward"),
    ("_streams", "feed_forward"),
    ("embed_", "embeddings"),
    ("per_layer", "feed_forward"),
)


@dataclass(frozen=True)
class ModelAccount:
    """Parameter counts by component, and bytes of storage and cache."""

    embeddings: int
    attention: int
    recurrent: int
    """What layers have instead of attention or beside it."""
    feed_forward: int
    norms: int
    output_head: int
    """0 if the head is tied to the embedding."""
    stored_bytes: Mapping[str, int]
    """Bytes in the files, by encoding."""
    kv_bytes_per_token: int
    """With a cache of 16-bit values."""
    kv_bytes_full: int
    """At the full context; a layer with a window or chunks caches no more than these."""
    kv_bytes_full_int8: int
    """The same with a cache in 8 bits."""
    state_bytes: int = 0
    """Of the layers that remember a text in a state of fixed size, with tails of 16-bit values."""
    idle_for_a_token: int = 0
    """Parameters of experts, and of tables of n-grams, that are not used for a token."""

    @property
    def parameters(self) -> int:
        """Number of all parameters; tied ones count once."""
        return sum((self.embeddings, self.attention, self.recurrent, self.feed_forward, self.norms, self.output_head))


def account(checkpoint: Checkpoint) -> ModelAccount:
    """Compute the account from the headers, without reading weights."""
    config = checkpoint.config
    counts: Counter[str] = Counter()
    idle = 0
    for name, parameter in parameters_of(config).items():
        counts[box_of(name)] += parameter.values
        idle += parameter.values - used_by_a_token(config, name, parameter.values)
    stored: Counter[str] = Counter()
    for name in {name for source in checkpoint.sources.values() for name in source.names}:
        stored[checkpoint.tensors[name].encoding] += checkpoint.tensors[name].nbytes
    return ModelAccount(
        embeddings=counts["embeddings"],
        attention=counts["attention"],
        recurrent=counts["recurrent"],
        feed_forward=counts["feed_forward"],
        norms=counts["norms"],
        output_head=counts["output_head"],
        stored_bytes=dict(stored.most_common()),
        kv_bytes_per_token=config.kv_bytes_per_token(bytes_per_value=2),
        kv_bytes_full=config.kv_bytes(config.context_length, bytes_per_value=2),
        kv_bytes_full_int8=replace(config, int8_cache=True).kv_bytes(config.context_length, bytes_per_value=2),
        state_bytes=config.state_bytes(bytes_per_value=2),
        idle_for_a_token=idle,
    )


def box_of(parameter: str) -> str:
    """The component that a parameter belongs to, by its name: a field of `ModelAccount`."""
    if "norm" in parameter or "layer_scalar" in parameter:
        return "norms"
    return next((box for part, box in _BOXES if part in parameter), "output_head")
