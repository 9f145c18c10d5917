"""Record activations at chosen positions in one pass over a text.

Dimension letters: L blocks, P chosen positions, C hidden size, H query heads, V size of a value head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.engine.prefill import read_chunks
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.core.hooks import Part, check_additive, on_added, on_feed_forward, on_heads, on_residual
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model import Transformer


@dataclass(frozen=True)
class Trace:
    """Activations at `positions` of a text; float32."""

    positions: tuple[int, ...]
    residuals: Tensor
    """(L + 1, P, C): the residual stream after 0, 1, ... L blocks; 0 is the embedding."""
    added: dict[Part, Tensor]
    """(L, P, C) each: outputs of attention, feed-forward and per-layer embeddings, as added to the residual stream.
    Empty unless requested.

    What a block has instead of attention counts as its attention. A part that a block lacks adds zero.
    """
    heads: Tensor
    """(L, P, H, V): output of each head before the output projection; zero in blocks without attention, and where a
    block has fewer or smaller heads than others. Empty unless requested.
    """
    feed_forward_inputs: Tensor
    """(L, P, C): inputs of the feed-forward networks, zero in blocks without one. Empty unless requested."""


def trace(
    model: Transformer,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    parts: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Read `ids` once and record the residual stream at `positions` (ascending); with `parts` everything in `Trace`.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such position.
        UnsupportedModelError: `parts` are wanted of a model whose residual stream is not their sum.
    """
    if parts:
        check_additive(model.config)
    if not positions or positions[0] < 0 or positions[-1] >= len(ids):
        raise UsageError(f"There is no such position: the text has {len(ids)} tokens, numbered from 0.")
    layers = model.config.num_layers
    wanted = torch.tensor(positions)
    residuals: list[list[Tensor]] = [[] for _ in range(layers + 1)]
    added: dict[Part, list[list[Tensor]]] = {
        "attention": [[] for _ in range(layers)],
        "feed_forward": [[] for _ in range(layers)],
        "per_layer": [[] for _ in range(layers)],
    }
    heads: list[list[Tensor]] = [[] for _ in range(layers)]
    inputs: list[list[Tensor]] = [[] for _ in range(layers)]
    here = slice(0)  # the wanted positions in the current pass
    rows = wanted[:0]  # their indices within the pass

    def keep(into: list[list[Tensor]]) -> Callable[[int, Tensor], None]:
        return lambda index, x: into[index].append(x[0, rows.to(x.device)].float()) if len(rows) else None

    with ExitStack() as hooks:
        hooks.enter_context(on_residual(model, keep(residuals)))
        if parts:
            hooks.enter_context(on_added(model, lambda index, part, x: keep(added[part])(index, x)))
            hooks.enter_context(on_heads(model, keep(heads)))
            hooks.enter_context(on_feed_forward(model, keep(inputs)))
        for start, stop in passes(model, ids, progress):
            here = slice(*torch.searchsorted(wanted, torch.tensor([start, stop])).tolist())
            rows = wanted[here] - start
    nothing = torch.empty(0)
    stream = _joined(residuals, nothing)
    return Trace(
        positions=tuple(positions),
        residuals=stream,
        added={part: _joined(kept, stream[0]) for part, kept in added.items()} if parts else {},
        heads=_joined(_alike(heads), nothing) if parts else nothing,
        feed_forward_inputs=_joined(inputs, stream[0]) if parts else nothing,
    )


@torch.inference_mode()
def passes(
    model: Transformer, ids: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[int, int]]:
    """Run `ids` through the model in chunks; yields (start, stop) before each, so hooks know their positions.

    `progress` is called after every block of the model with (tokens done, all tokens).

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text.
    """
    if not ids:
        raise UsageError("The text is empty: there is nothing to inspect.")
    if len(ids) > model.config.context_length:
        raise PromptTooLongError(
            f"The text has {len(ids)} tokens, but the model's context holds {model.config.context_length}."
        )
    cache = model.new_cache(capacity=len(ids))
    cache.expected_length = len(ids)
    step = ReadableStep(model)
    chunks = read_chunks(step, cache, ids)
    layers = model.config.num_layers
    while (start := cache.length) < len(ids):
        stop = min(start + step.prefill_chunk, len(ids))
        yield start, stop

        def see(block: int, _x: Tensor, start: int = start, stop: int = stop) -> None:
            if progress is not None:
                progress(start + (stop - start) * block // layers, len(ids))

        with nullcontext() if progress is None else on_residual(model, see):
            next(chunks)


def _alike(heads: list[list[Tensor]]) -> list[list[Tensor]]:
    """Heads (P, H, V) of each block, in as many and as large ones as any block has."""
    shapes = [x.shape[1:] for chunks in heads for x in chunks]
    count, size = (max(shape[part] for shape in shapes) for part in (0, 1)) if shapes else (0, 0)
    return [[F.pad(x, (0, size - x.shape[2], 0, count - x.shape[1])) for x in chunks] for chunks in heads]


def _joined(kept: list[list[Tensor]], like: Tensor) -> Tensor:
    """Stack what was kept of each block; zeros for blocks without it, in the shape of `like` if no block has it."""
    found = [torch.cat(chunks) if chunks else None for chunks in kept]
    like = next((values for values in found if values is not None), like)
    return torch.stack([torch.zeros_like(like) if values is None else values for values in found])
