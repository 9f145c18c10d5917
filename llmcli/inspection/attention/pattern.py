"""The raw attention pattern of one head: the weight of every earlier position for each query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llmcli.errors import UsageError
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import AttentionCall, check_head, on_attention
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.loaded_model import LoadedModel


@dataclass(frozen=True)
class Pattern:
    """Rows of a head's attention matrix after softmax, with mask, window, soft cap and sinks applied."""

    tokens: tuple[Token, ...]
    layer: int
    """The block, counted from 0."""
    head: int
    positions: tuple[int, ...]
    """The query position of each row."""
    pattern: tuple[tuple[float, ...], ...]
    """For each of `positions`, the weight of every token of the text; 0 for tokens that the query cannot see."""


@torch.inference_mode()
def attention_pattern(
    loaded: LoadedModel,
    ids: Sequence[int],
    block: int,
    head: int,
    positions: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Pattern:
    """The rows at `positions` (ascending) of one head's pattern.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such block or head.
    """
    if not 0 <= block < loaded.config.num_layers:
        raise UsageError(f"There is no block {block}: the model has {loaded.config.num_layers}, numbered from 0.")
    check_head(loaded.config, block, head)
    end = 0
    rows: list[tuple[float, ...]] = []

    def see(call: AttentionCall) -> None:
        start, first = end - call.new, end - call.seen
        for position in positions:
            if start <= position < end:
                weights = call.weights(position - start, position - start + 1)[0, head, 0, : position + 1 - first]
                rows.append((*[0.0] * first, *weights.tolist(), *[0.0] * (len(ids) - position - 1)))

    with on_attention(loaded.model, see, only=[block]):
        for _, stop in passes(loaded.model, ids, progress):
            end = stop
    return Pattern(tokens(loaded.tokenizer, ids), block, head, tuple(positions), tuple(rows))
