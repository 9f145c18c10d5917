"""Keys: what the output projection of a feed-forward network reads, which is what an update of it answers to.

Dimension letters: B batch, T tokens, C hidden size, I neurons of a network, N keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from llmcli.editing.prompt import Passage
from llmcli.errors import UnsupportedModelError, UsageError
from llmcli.inspection.core.hooks import blocks, removed
from llmcli.model import ModelConfig, Transformer
from llmcli.model.feed_forward import FeedForward, PlainFeedForward

# Tokens that are read together.
TOKENS_AT_ONCE = 1 << 11


def editable_layers(config: ModelConfig, name: str) -> list[int]:
    """The blocks whose feed-forward network is dense, so that one matrix holds what it writes.

    Raises:
        UnsupportedModelError: there are none.
    """
    dense = [index for index, layer in enumerate(config.layers) if layer.experts is None]
    if not dense:
        raise UnsupportedModelError(
            f"{name} cannot be edited: all its feed-forward networks are mixtures of experts. A fact is then written "
            "by several experts, each by its own matrix, and an update of one of them would not reach the others."
        )
    return dense


def check_layer(config: ModelConfig, name: str, layer: int) -> None:
    """Raise `UsageError` if there is no such block, or its feed-forward network is a mixture of experts."""
    if not 0 <= layer < config.num_layers:
        raise UsageError(f"There is no block {layer}: the model has {config.num_layers}, numbered from 0.")
    dense = editable_layers(config, name)
    if layer not in dense:
        raise UsageError(f"Block {layer} is a mixture of experts; blocks {dense[0]} to {dense[-1]} can be edited.")


def network_of(model: Transformer, layer: int) -> FeedForward | PlainFeedForward:
    """The dense feed-forward network of a block."""
    network = blocks(model)[layer].mlp
    assert isinstance(network, FeedForward | PlainFeedForward)
    return network


class _Enough(Exception):  # noqa: N818 (no error: the blocks above need not be computed)
    """All keys have been seen."""


@torch.inference_mode()
def read_keys(model: Transformer, layers: Sequence[int], ids: Tensor, see: Callable[[int, Tensor], None]) -> None:
    """`see(block, keys)`: what the output projections of those blocks read of `ids` (B, T), as (B, T, I)."""
    last = max(layers)

    def seeing(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            see(layer, inputs[0])
            if layer == last:
                raise _Enough

        return look

    hooks = (network_of(model, layer).down_proj.register_forward_pre_hook(seeing(layer)) for layer in layers)
    with removed(hooks), suppress(_Enough):
        model(ids, only_last=True)


def subject_keys(model: Transformer, layers: Sequence[int], passages: Sequence[Passage]) -> dict[int, Tensor]:
    """For each of the layers, the keys (N, I) at the subjects' last tokens; float32."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    at: list[int] = []

    def keep(layer: int, keys: Tensor) -> None:
        found[layer].append(keys[torch.arange(len(at)), at].float())

    step = max(1, TOKENS_AT_ONCE // max(each.subject + 1 for each in passages))
    for first in range(0, len(passages), step):
        some = passages[first : first + step]
        at = [each.subject for each in some]
        # Nothing after the subject can matter to it.
        read_keys(model, layers, padded([each.ids[: each.subject + 1] for each in some], model), keep)
    return {layer: torch.cat(rows) for layer, rows in found.items()}


def padded(texts: Sequence[Sequence[int]], model: Transformer) -> Tensor:
    """Texts (B, T) of different lengths; what stands behind a text's end can change nothing before it."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
