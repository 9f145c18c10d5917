"""Read-only forward hooks on the modules of `model/`.

Each function is a context manager that calls `see` during every forward pass inside its `with` block and removes its
hooks afterwards. The tensors passed to `see` are the model's own, not copies: `see` must not change them, and should
reduce or copy them immediately.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, D size of a key, V size of a value head,
C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmcli.errors import UnsupportedModelError, UsageError
from llmcli.model import ModelConfig, Transformer
from llmcli.model.attention.attention import Attention
from llmcli.model.attention.latent_attention import LatentAttention
from llmcli.model.attention.scaled_dot_product import SoftmaxAttention
from llmcli.model.attention.shared_row_attention import SharedRowAttention
from llmcli.model.block import Block, OutputNormBlock, ScaledBlock
from llmcli.model.mixer_config import mixer_name
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.recurrent.two_mixers import TwoMixers

Part: TypeAlias = Literal["attention", "feed_forward", "per_layer"]
"""A part of a block. What a block has instead of attention counts as its attention."""


@dataclass(frozen=True)
class AttentionCall:
    """Inputs of one layer's attention in one pass."""

    block: int
    attention: Attention | LatentAttention
    q: Tensor
    """(B, H, T, D)"""
    k: Tensor
    """(B, K, S, D); the last T belong to the queries. In latent attention K is 1 and these are the cached rows."""
    v: Tensor
    """(B, K, S, V); in latent attention the latents that values are computed from, (B, 1, S, L)."""
    mask: Tensor | None
    """(T, S); None is a causal mask: each query sees all keys up to its own."""

    @property
    def new(self) -> int:
        """T, the number of queries; key S - T belongs to the first query."""
        return self.q.shape[2]

    @property
    def seen(self) -> int:
        """S, the number of keys; the last key belongs to the last query."""
        return self.k.shape[2]

    def weights(self, first: int = 0, stop: int | None = None) -> Tensor:
        """The attention pattern of queries `first` to `stop` (of the T) over all S keys: float32, (B, H, rows, S)."""
        stop = self.new if stop is None else stop
        if self.mask is not None:
            mask = self.mask[first:stop]
        else:
            earlier = self.seen - self.new
            mask = torch.ones(stop - first, self.seen, dtype=torch.bool, device=self.q.device).tril(earlier + first)
        softmax: SoftmaxAttention = self.attention.attend
        sinks = getattr(self.attention, "sinks", None)
        return softmax.weights(self.q[:, :, first:stop], self.k, mask, sinks)


def blocks(model: Transformer) -> list[Block]:
    """The model's blocks, typed as `Block`."""
    return [block for block in model.layers if isinstance(block, Block)]


@contextmanager
def on_residual(model: Transformer, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """`see(layer, x)`: the residual stream (B, T, C) after `layer` blocks; 0 is the embedding."""

    def entering(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(0, inputs[0])

    def leaving(layer: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: see(layer, output)

    with removed(
        [
            model.layers[0].register_forward_pre_hook(entering),
            *(block.register_forward_hook(leaving(layer)) for layer, block in enumerate(model.layers, 1)),
        ]
    ):
        yield


@contextmanager
def on_added(model: Transformer, see: Callable[[int, Part, Tensor], None]) -> Iterator[None]:
    """`see(block, part, x)`: what the parts of each block add to the residual stream, (B, T, C)."""

    def seeing(index: int, part: Part) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: see(index, part, output)

    with removed(
        adder(block, part).register_forward_hook(seeing(index, part))
        for index, block in enumerate(blocks(model))
        for part in parts_of(model.config, index)
    ):
        yield


@contextmanager
def on_attention(
    model: Transformer, see: Callable[[AttentionCall], None], *, only: Iterable[int] | None = None
) -> Iterator[None]:
    """`see(call)`: queries, keys and values of the attention of all blocks that have any, or of the blocks in `only`.

    Raises:
        UsageError: a block in `only` has no attention.
    """

    def seeing(index: int, attention: Attention | LatentAttention) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            q, k, v, mask = inputs[:4]
            see(AttentionCall(index, attention, q, k, v, mask))

        return look

    chosen = attention_blocks(model.config) if only is None else only
    with removed(
        attention_of(model, index).attend.register_forward_pre_hook(seeing(index, attention_of(model, index)))
        for index in chosen
    ):
        yield


@contextmanager
def on_heads(model: Transformer, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """`see(block, z)`: the output of each head before the output projection, (B, T, H, V), in blocks with attention."""

    def seeing(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: see(index, by_head(model, index, inputs[0]))

    with removed(
        attention_of(model, index).o_proj.register_forward_pre_hook(seeing(index))
        for index in attention_blocks(model.config)
    ):
        yield


@contextmanager
def on_feed_forward(model: Transformer, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """`see(block, x)`: the input of each feed-forward network, dense or mixture of experts, (B, T, C)."""

    def seeing(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: see(index, inputs[0])

    with removed(
        block.mlp.register_forward_pre_hook(seeing(index))
        for index, block in enumerate(blocks(model))
        if "feed_forward" in parts_of(model.config, index)
    ):
        yield


@contextmanager
def on_router(model: Transformer, see: Callable[[int, Tensor, Tensor, Tensor], None]) -> Iterator[None]:
    """`see(block, x, chosen, weights)`: the input of each router (N, C), the chosen experts and their weights.

    The last two are (N, k), for N tokens and k experts per token. Dense blocks have no router and are skipped.
    """

    def seeing(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], tuple[Tensor, Tensor]], None]:
        return lambda _module, inputs, outputs: see(index, inputs[0], *outputs)

    with removed(
        network.gate.register_forward_hook(seeing(index))
        for index, block in enumerate(blocks(model))
        if isinstance(network := getattr(block, "mlp", None), MixtureOfExperts)
    ):
        yield


def attention_of(model: Transformer, block: int) -> Attention | LatentAttention:
    """The attention module of a block.

    Raises:
        UsageError: it has none.
        UnsupportedModelError: its keys are not tokens alone, or the model is split over ranks.
    """
    if model.config.held_tokens is not None:
        raise UnsupportedModelError("Attention can be shown only of a whole model; this one is split over ranks.")
    mixer = blocks(model)[block].mixer if "attention" in parts_of(model.config, block) else None
    found = [mixer, *mixer.children()] if isinstance(mixer, TwoMixers) else [mixer]
    for module in found:
        if isinstance(module, Attention | LatentAttention):
            return module
        if isinstance(module, SharedRowAttention):
            raise UnsupportedModelError(
                "The attention of this model cannot be shown by token: its heads also read rows that stand for whole "
                "blocks of tokens."
            )
    raise _no_attention(model.config, block)


def attention_blocks(config: ModelConfig) -> list[int]:
    """The blocks that have attention."""
    return [block for block, layer in enumerate(config.layers) if layer.attends]


def parts_of(config: ModelConfig, block: int) -> tuple[Part, ...]:
    """The parts that a block has."""
    only: dict[str, tuple[Part, ...]] = {"mixer": ("attention",), "feed_forward": ("feed_forward",)}
    parts = only.get(config.layers[block].parts, ("attention", "feed_forward"))
    # With several residual streams, the vectors of tokens are added to the others.
    return parts if config.per_layer is None or config.altup is not None else (*parts, "per_layer")


def scales(model: Transformer) -> list[float]:
    """The factor on what each block adds, and last 1, until the last residual stream.

    That is the product of the numbers by which the block and later ones multiply the stream.
    """
    found = [1.0]
    for block in reversed(blocks(model)):
        found.append(found[-1] * (float(block.layer_scalar) if isinstance(block, ScaledBlock) else 1.0))
    return found[::-1]


def by_head(model: Transformer, block: int, values: Tensor) -> Tensor:
    """Split `values` (..., H * V) of a block's heads: (..., H, V)."""
    return values.view(*values.shape[:-1], head_count(model.config, block), -1)


def head_count(config: ModelConfig, block: int) -> int:
    """The number of query heads of a block."""
    return config.heads_of(config.layers[block]).count


def check_attends(config: ModelConfig) -> None:
    """Raise `UsageError` if no block has attention."""
    if not attention_blocks(config):
        kinds = dict.fromkeys(mixer_name(mixer) for layer in config.layers for mixer in layer.mixers)
        raise UsageError(f"This model has no attention: its blocks remember the text by {' and '.join(kinds)}.")


def check_head(config: ModelConfig, block: int, head: int | None) -> None:
    """Raise `UsageError` if the block has no such query head, or no attention; None means all heads."""
    if not config.layers[block].attends:
        raise _no_attention(config, block)
    count = head_count(config, block)
    if head is not None and not 0 <= head < count:
        raise UsageError(f"There is no head {head}: block {block} has {count}, numbered from 0.")


def check_additive(config: ModelConfig) -> None:
    """Raise `UnsupportedModelError` if the last residual stream is not a sum of outputs that the parts are known of.

    That is the embedding and the outputs of all attention and feed-forward networks in most models.
    """
    if any(config.placement_of(layer) == "sum" for layer in config.layers):
        raise UnsupportedModelError(
            "The logits of this model cannot be split into contributions of its parts: its blocks normalize the "
            "residual stream itself."
        )
    if config.head_layer is not None:
        raise UnsupportedModelError(
            "The logits of this model cannot be split into contributions of its parts: there is a layer in front of "
            "its output head."
        )
    if config.streams > 1:
        raise UnsupportedModelError(
            "The logits of this model cannot be split into contributions of its parts: it has several residual "
            "streams, which change each other."
        )


def adder(block: Block, part: Part) -> nn.Module:
    """The module whose output is what that part of the block adds to the residual stream."""
    if part == "per_layer":
        assert isinstance(block, ScaledBlock) and block.per_layer_input is not None
        return block.per_layer_input
    if isinstance(block, OutputNormBlock):
        return block.attention_output_norm if part == "attention" else block.mlp_output_norm
    return block.mixer if part == "attention" else block.mlp


def _no_attention(config: ModelConfig, block: int) -> UsageError:
    mixers = config.layers[block].mixers
    what = f"{mixer_name(mixers[0])} is in its place" if mixers else "only a feed-forward network"
    return UsageError(f"Block {block} has no attention: {what}.")


@contextmanager
def removed(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the `with` block."""
    held: list[RemovableHandle] = []
    try:
        held.extend(handles)
        yield
    finally:
        for handle in held:
            handle.remove()
