"""Keys: the inputs of a feed-forward network's output projection, to which a rank-one update responds.

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

# Tokens per pass.
TOKENS_AT_ONCE = 1 << 11


def editable_layers(config: ModelConfig, name: str) -> list[int]:
    """The blocks with a dense feed-forward network, whose output comes from a single matrix.

    Raises:
        UnsupportedModelError: there are none, or blocks read more than the residual stream.
    """
    if reason := config.why_not_restartable:
        raise UnsupportedModelError(
            f"{name} cannot be edited: {reason}, so an edit cannot be computed from one block's output."
        )
    if any(layer.channel_mixing for layer in config.layers):
        raise UnsupportedModelError(
            f"{name} cannot be edited: a gate multiplies the output of its feed-forward networks, so a change of a "
            "matrix would not add the same at every token."
        )
    if all(layer.parts == "mixer" for layer in config.layers):
        raise UnsupportedModelError(
            f"{name} cannot be edited: it has no feed-forward networks, in whose matrices an edit changes a fact."
        )
    dense = [index for index, layer in enumerate(config.layers) if layer.experts is None and layer.parts != "mixer"]
    if not dense:
        raise UnsupportedModelError(
            f"{name} cannot be edited: all its feed-forward networks are mixtures of experts. A fact is then spread "
            "over the matrices of several experts, and updating one of them would not change the others."
        )
    return dense


def check_layer(config: ModelConfig, name: str, layer: int) -> None:
    """Raise `UsageError` if there is no such block, or it has no dense feed-forward network."""
    if not 0 <= layer < config.num_layers:
        raise UsageError(f"There is no block {layer}: the model has {config.num_layers}, numbered from 0.")
    dense = editable_layers(config, name)
    if layer not in dense:
        what = "has no feed-forward network" if config.layers[layer].parts == "mixer" else "is a mixture of experts"
        raise UsageError(f"Block {layer} {what}; blocks {dense[0]} to {dense[-1]} can be edited.")


def network_of(model: Transformer, layer: int) -> FeedForward | PlainFeedForward:
    """The dense feed-forward network of a block."""
    network = blocks(model)[layer].mlp
    assert isinstance(network, FeedForward | PlainFeedForward)
    return network


class _StopPass(Exception):  # noqa: N818 (not an error: later blocks need not be computed)
    """Ends a forward pass after the last block whose keys are wanted."""


@torch.inference_mode()
def read_keys(model: Transformer, layers: Sequence[int], ids: Tensor, see: Callable[[int, Tensor], None]) -> None:
    """Run `ids` (B, T) and call `see(block, keys)` with the keys (B, T, I) of each block in `layers`."""
    last = max(layers)

    def seeing(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            see(layer, inputs[0])
            if layer == last:
                raise _StopPass

        return look

    hooks = (network_of(model, layer).down_proj.register_forward_pre_hook(seeing(layer)) for layer in layers)
    with removed(hooks), suppress(_StopPass):
        model(ids, only_last=True)


def subject_keys(model: Transformer, layers: Sequence[int], passages: Sequence[Passage]) -> dict[int, Tensor]:
    """For each block in `layers`, the keys (N, I) at the subjects' last tokens; float32."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    at: list[int] = []

    def keep(layer: int, keys: Tensor) -> None:
        found[layer].append(keys[torch.arange(len(at)), at].float())

    step = max(1, TOKENS_AT_ONCE // max(each.subject + 1 for each in passages))
    for first in range(0, len(passages), step):
        some = passages[first : first + step]
        at = [each.subject for each in some]
        # Attention is causal, so tokens after the subject do not affect its key.
        read_keys(model, layers, padded([each.ids[: each.subject + 1] for each in some], model), keep)
    return {layer: torch.cat(rows) for layer, rows in found.items()}


def padded(texts: Sequence[Sequence[int]], model: Transformer) -> Tensor:
    """Pad texts of different lengths on the right to (B, T); attention is causal, so padding changes nothing."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
