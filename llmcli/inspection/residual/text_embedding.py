"""The embedding of a text: the hidden states of its tokens after the last block and the final norm, pooled to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from llmcli.engine.context_limit import memory_for_text
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import on_residual
from llmcli.model import Transformer

Pooling: TypeAlias = Literal["mean", "last"]


@torch.inference_mode()
def text_embedding(
    model: Transformer,
    ids: Sequence[int],
    *,
    pooling: Pooling = "last",
    normalize: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The embedding (C,) of the text `ids` in float32, on the CPU, from the readable model.

    `pooling` takes the mean over all tokens or the state of the last; `normalize` scales to length 1.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text.
    """
    blocks = model.config.num_layers
    states: list[Tensor] = []

    def see(layer: int, residual: Tensor) -> None:
        if layer == blocks:
            merged = residual if model.streams is None else model.streams.merge(residual)
            hidden: Tensor = model.norm(merged)[0].float()  # (T, C)
            states.append(hidden.sum(0) if pooling == "mean" else hidden[-1])

    with memory_for_text(model, len(ids)), on_residual(model, see):
        for _ in passes(model, ids, progress):
            pass
    pooled = torch.stack(states).sum(0) / len(ids) if pooling == "mean" else states[-1]
    return (pooled / pooled.norm().clamp(min=1e-12) if normalize else pooled).cpu()
