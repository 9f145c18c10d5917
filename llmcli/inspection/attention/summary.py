"""What chosen tokens of a text read: their rows of attention, as `rows` sums them up, for views and commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from llmcli.api import LoadedModel
from llmcli.engine import AttentionRow
from llmcli.errors import UsageError
from llmcli.inspection.attention.rows import AttentionRows
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import on_attention
from llmcli.inspection.core.text_spans import TextSpan
from llmcli.inspection.core.tokens import Token, tokens


@dataclass(frozen=True)
class BlockReading:
    """What one block's attention, all heads together, read."""

    block: int
    row: AttentionRow


@dataclass(frozen=True)
class Reading:
    """What one row read: in all blocks together, and in each, if that was asked for."""

    row: AttentionRow
    blocks: tuple[BlockReading, ...]


@dataclass(frozen=True)
class AttentionSummary:
    """What some rows of a text read, and, if there is only one, what every block of it read."""

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
    """What the rows at `positions` (ascending) of a text read: of each the `top` tokens or, if given, `spans`.

    `only` limits it to some blocks, `head` to one head of each. With `each_block` every block's own reading comes too.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such position, block or head.
    """
    model, config = loaded.model, loaded.config
    chosen = sorted(range(config.num_layers) if only is None else only)
    if not positions or positions[0] < 0 or positions[-1] >= len(ids):
        raise UsageError(f"There is no such position: the text has {len(ids)} tokens, numbered from 0.")
    if not chosen or chosen[0] < 0 or chosen[-1] >= config.num_layers:
        raise UsageError(f"There is no such block: the model has {config.num_layers}, numbered from 0.")
    if head is not None and not 0 <= head < config.num_heads:
        raise UsageError(f"There is no head {head}: a block has {config.num_heads}, numbered from 0.")
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
    """`read_at` for a view: with what each block read, where there is a single position."""
    alone = len(positions) == 1
    found = read_at(loaded, ids, positions, top=top, only=only, each_block=alone, spans=spans, progress=progress)
    return AttentionSummary(
        tokens(loaded.tokenizer, ids), tuple(reading.row for reading in found), found[0].blocks if alone else ()
    )
