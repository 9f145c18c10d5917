"""Attention rows at chosen positions of a text, for views and commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from llmcli.engine import AttentionRow
from llmcli.errors import UsageError
from llmcli.inspection.attention.rows import AttentionRows
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import attention_blocks, check_attends, check_head, on_attention
from llmcli.inspection.core.text_spans import TextSpan
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.loaded_model import LoadedModel


@dataclass(frozen=True)
class BlockReading:
    """The attention row of one block, over all its heads."""

    block: int
    row: AttentionRow


@dataclass(frozen=True)
class Reading:
    """The attention row of one position over all blocks, and per block if requested."""

    row: AttentionRow
    blocks: tuple[BlockReading, ...]


@dataclass(frozen=True)
class AttentionSummary:
    """Attention rows of some positions; for a single position also one row per block."""

    tokens: tuple[Token, ...]
    rows: tuple[AttentionRow, ...]
    blocks: tuple[BlockReading, ...]


@torch.inference_mode()
def read_at(
    loaded: LoadedModel,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    top: int = 5,
    only: Collection[int] | None = None,
    head: int | None = None,
    each_block: bool = False,
    spans: Sequence[TextSpan] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Reading, ...]:
    """The attention rows at `positions` (ascending), each with its `top` tokens or, if given, `top` of the `spans`.

    `only` selects blocks, `head` one head of each block. `each_block` adds one row per block.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such position, block or head.
    """
    model, config = loaded.model, loaded.config
    check_attends(config)
    chosen = sorted(attention_blocks(config) if only is None else only)
    if not positions or positions[0] < 0 or positions[-1] >= len(ids):
        raise UsageError(f"There is no such position: the text has {len(ids)} tokens, numbered from 0.")
    if not chosen or chosen[0] < 0 or chosen[-1] >= config.num_layers:
        raise UsageError(f"There is no such block: the model has {config.num_layers}, numbered from 0.")
    for block in chosen:
        check_head(config, block, head)
    rows = AttentionRows(model, positions, only=chosen, head=head, each_block=each_block)
    found: list[Reading] = []

    def take() -> None:
        for position in rows.here:
            of = rows.taken(loaded.tokenizer, ids, position, top=top, spans=spans)
            each = tuple(BlockReading(block, row) for block, row in of.items() if block is not None)
            found.append(Reading(of[None], each))

    with on_attention(model, rows.see, only=chosen):
        for start, _ in passes(model, ids, progress):
            if start:
                take()
    take()
    return tuple(found)


def summary(
    loaded: LoadedModel,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    top: int = 5,
    only: Collection[int] | None = None,
    spans: Sequence[TextSpan] = (),
    progress: Callable[[int, int], None] | None = None,
) -> AttentionSummary:
    """`read_at` for a view: with one row per block if there is a single position."""
    alone = len(positions) == 1
    found = read_at(loaded, ids, positions, top=top, only=only, each_block=alone, spans=spans, progress=progress)
    return AttentionSummary(
        tokens(loaded.tokenizer, ids), tuple(reading.row for reading in found), found[0].blocks if alone else ()
    )
