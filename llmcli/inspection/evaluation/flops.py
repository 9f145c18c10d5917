"""Where a model's parameters are, and what its key-value cache costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.model.parameters import parameters_of


@dataclass(frozen=True)
class ModelAccount:
    """Counts of parameters by the box they belong to, and bytes of storage and cache."""

    embeddings: int
    attention: int
    feed_forward: int
    norms: int
    output_head: int
    """0 when the head is the embedding matrix itself."""
    stored_bytes: Mapping[str, int]
    """Bytes in the files, by the encoding they are stored in."""
    kv_bytes_per_token: int
    """In a cache of 16-bit values."""
    kv_bytes_full: int
    """At the full context; layers with a window or chunks hold no more than that."""
    idle_for_a_token: int = 0
    """Parameters of the experts that a token does not go through, on average over tokens."""

    @property
    def parameters(self) -> int:
        """All parameters, shared ones counted once."""
        return self.embeddings + self.attention + self.feed_forward + self.norms + self.output_head


def account(checkpoint: Checkpoint) -> ModelAccount:
    """Count from the headers; no weight is read."""
    config = checkpoint.config
    counts: Counter[str] = Counter()
    idle = 0
    for name, parameter in parameters_of(config).items():
        counts[box_of(name)] += parameter.values
        if ".mlp.experts." in name and (experts := config.layers[int(name.split(".")[1])].experts) is not None:
            idle += parameter.values // experts.count * (experts.count - experts.chosen)
    stored: Counter[str] = Counter()
    for name in {name for source in checkpoint.sources.values() for name in source.names}:
        stored[checkpoint.tensors[name].encoding] += checkpoint.tensors[name].nbytes
    return ModelAccount(
        embeddings=counts["embeddings"],
        attention=counts["attention"],
        feed_forward=counts["feed_forward"],
        norms=counts["norms"],
        output_head=counts["output_head"],
        stored_bytes=dict(stored.most_common()),
        kv_bytes_per_token=config.kv_bytes_per_token(bytes_per_value=2),
        kv_bytes_full=config.kv_bytes(config.context_length, bytes_per_value=2),
        idle_for_a_token=idle,
    )


def box_of(parameter: str) -> str:
    """The box that a parameter of that name belongs to: a field of `ModelAccount`."""
    if "norm" in parameter:
        return "norms"
    for part, box in (("self_attn", "attention"), ("mlp", "feed_forward"), ("embed_", "embeddings")):
        if part in parameter:
            return box
    return "output_head"
