"""The attention patterns of all heads on one text, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llmcli.errors import UsageError
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import (
    AttentionCall,
    attention_blocks,
    check_attends,
    check_head,
    head_count,
    on_attention,
)
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.inspection.core.value_norms import ValueLengths
from llmcli.loaded_model import LoadedModel

MOST_WEIGHTS = 500_000
"""The most weights of all heads together: as JSON they take about 4 MB."""
_DIGITS = 4


@dataclass(frozen=True)
class HeadPattern:
    """The pattern of one head, and how much each token would contribute through it."""

    layer: int
    """The block, counted from 0."""
    head: int
    pattern: tuple[tuple[float, ...], ...]
    """For each position the weights of the tokens up to it, rounded to 4 digits."""
    value_lengths: tuple[float, ...]
    """For each token the length of its value after the output matrix, `||v W_O||`, relative to the longest."""


@dataclass(frozen=True)
class HeadPatterns:
    """The patterns of all heads of some blocks."""

    tokens: tuple[Token, ...]
    heads: tuple[HeadPattern, ...]


@torch.inference_mode()
def head_patterns(
    loaded: LoadedModel,
    ids: Sequence[int],
    *,
    only: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadPatterns:
    """The patterns of all heads of the blocks in `only`, by default of all blocks with attention.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, no such block, or more than `MOST_WEIGHTS` weights.
    """
    config = loaded.config
    check_attends(config)
    blocks = sorted(attention_blocks(config) if only is None else only)
    for block in blocks:
        if not 0 <= block < config.num_layers:
            raise UsageError(f"There is no block {block}: the model has {config.num_layers}, numbered from 0.")
        check_head(config, block, None)
    count = sum(head_count(config, block) for block in blocks)
    if count * len(ids) * (len(ids) + 1) // 2 > MOST_WEIGHTS:
        raise UsageError(
            f"The patterns of {count} heads on {len(ids)} tokens are more than {MOST_WEIGHTS:,} weights. Give a "
            "shorter text, or fewer blocks with --layer or --layers."
        )
    lengths = ValueLengths(loaded.model)
    rows: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    end = 0

    def see(call: AttentionCall) -> None:
        lengths.note(call, end)
        first = end - call.seen
        for head, weights in enumerate(call.weights()[0].tolist()):
            for query, row in enumerate(weights, end - call.new):
                seen = [round(weight, _DIGITS) for weight in row[: query + 1 - first]]
                rows.setdefault((call.block, head), []).append((*[0.0] * first, *seen))

    with on_attention(loaded.model, see, only=blocks):
        for _, stop in passes(loaded.model, ids, progress):
            end = stop
    heads = []
    for block in blocks:
        for head, each in enumerate(lengths.of(block, 0, len(ids)).tolist()):
            longest = max(each) or 1.0
            relative = tuple(round(length / longest, _DIGITS) for length in each)
            heads.append(HeadPattern(block, head, tuple(rows[block, head]), relative))
    return HeadPatterns(tokens(loaded.tokenizer, ids), tuple(heads))
