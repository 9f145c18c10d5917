"""Zero ablation: context managers that switch off parts of a model, to measure whether they matter.

The output of a part is replaced by zero at every position. The weights are not touched: after the `with` block the
model is unchanged.

Dimension letters: B batch, T new tokens, S keys, C hidden size, H query heads, V size of a value head, I neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmcli.errors import UsageError
from llmcli.inspection.core.hooks import attention_blocks, attention_of, blocks, by_head, on_residual, removed
from llmcli.inspection.core.recurrences import skipping
from llmcli.model import Transformer
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.recurrence import Recurrence
from llmcli.model.recurrent.rwkv4 import TokenShift

# Rows of logits computed at a time: 128 MiB in float32 for a vocabulary of 128k.
ROWS_AT_ONCE = 256


@torch.inference_mode()
def logprobs_from(
    model: Transformer, ids: Tensor, first: int, vocab_size: int, *, rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[Tensor]:
    """Log-probabilities of the tokens of `ids` (B, T) from position `first` (at least 1) on.

    Yields float32 (B, positions, `vocab_size`), at most `rows_at_once` rows or one position at a time. Makes one pass
    without a cache, so that ablations apply to the whole text.
    """
    residual: list[Tensor] = []

    def keep(layer: int, x: Tensor) -> None:
        if layer == model.config.num_layers:
            residual.append(x[:, first - 1 : -1])

    with on_residual(model, keep):
        model(ids, only_last=True)
    for places in torch.split(residual[0], max(1, rows_at_once // len(ids)), dim=1):
        yield model.unembed(places)[..., :vocab_size].float().log_softmax(-1)


@contextmanager
def without_heads(model: Transformer, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Zero the output of heads, each a (block, head), inside the `with` block."""
    by_block: dict[int, list[int]] = {}
    for block, head in heads:
        by_block.setdefault(block, []).append(head)

    def zeroing(block: int, off: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def zero(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            z = by_head(model, block, inputs[0]).clone()  # (B, T, H, V)
            z[:, :, off] = 0
            return (z.flatten(2),)

        return zero

    with removed(
        attention_of(model, block).o_proj.register_forward_pre_hook(zeroing(block, off))
        for block, off in by_block.items()
    ):
        yield


@contextmanager
def without_neurons(model: Transformer, neurons: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Zero neurons of dense feed-forward networks, each a (block, neuron), inside the `with` block.

    Raises:
        UsageError: a block's feed-forward network is a mixture of experts.
    """
    by_block: dict[int, list[int]] = {}
    for block, neuron in neurons:
        by_block.setdefault(block, []).append(neuron)

    def zeroing(off: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def zero(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            fired = inputs[0].clone()  # (B, T, I)
            fired[..., off] = 0
            return (fired,)

        return zero

    with ExitStack() as stack:
        for block, off in by_block.items():
            network = blocks(model)[block].mlp
            if isinstance(network, MixtureOfExperts):
                raise UsageError(f"Block {block} is a mixture of experts; its neurons cannot be switched off singly.")
            down: nn.Linear = network.down_proj  # type: ignore[assignment]
            stack.enter_context(removed([down.register_forward_pre_hook(zeroing(off))]))
        yield


@contextmanager
def without_keys(model: Transformer, positions: Collection[int]) -> Iterator[None]:
    """Let no later token attend to the tokens at `positions`, in any block; each token still sees itself.

    States of recurrent layers still hold them, see `without_states`. Works for passes over a whole text without a
    cache.
    """
    hidden = torch.tensor(sorted(positions), dtype=torch.long, device=model.device)

    def hide(_module: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        q, k, v, mask, *rest = inputs
        assert q is not None and k is not None
        new, seen = q.shape[2], k.shape[2]
        if new != seen:
            raise ValueError("keys can only be hidden from a pass over the whole text")
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril() if mask is None else mask.clone()
        mask[:, hidden] = False
        mask[hidden, hidden] = True
        return (q, k, v, mask, *rest)

    with removed(
        attention_of(model, block).attend.register_forward_pre_hook(hide) for block in attention_blocks(model.config)
    ):
        yield


@contextmanager
def without_states(model: Transformer, positions: Collection[int]) -> Iterator[None]:
    """Keep the tokens at `positions` out of the states of recurrent layers, and out of their convolutions and shifts.

    States pass over them unchanged. Works for passes over a whole text without a cache.
    """

    def skip(module: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        assert isinstance(module, Recurrence)
        return skipping(module.rule, inputs, positions)

    def silence(_module: nn.Module, inputs: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        x = inputs[0].clone()  # (B, T, C)
        x[:, sorted(positions)] = 0
        return (x, inputs[1])

    handles: list[RemovableHandle] = []
    for module in model.modules():
        if isinstance(module, Recurrence):
            handles.append(module.register_forward_pre_hook(skip))
        elif isinstance(module, CausalConv | TokenShift):
            handles.append(module.register_forward_pre_hook(silence))
    with removed(handles):
        yield


@contextmanager
def without_tokens(model: Transformer, positions: Collection[int]) -> Iterator[None]:
    """Hide the tokens at `positions` from all later tokens: neither attention nor states carry them."""
    with without_keys(model, positions), without_states(model, positions):
        yield
