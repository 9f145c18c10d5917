"""What a token read: how much attention the row at its position paid to every token before it, summed up.

The row at position i is what produced the token after it. Two measures are kept apart. `sink` and `self` are plain
shares of attention, averaged over heads and blocks: most models park what they do not need on the first token. What
was *read* is ranked by `a_ij ||v_j W_O||`, attention times the length of what it moves (Kobayashi et al. 2020,
arXiv:2004.10102, eq. 4), over everything but the first token and the row's own, and sums to 1 there.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, V size of a value head, R rows, C hidden
size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.api import LoadedModel
from llmcli.engine import AttentionRow, Read
from llmcli.errors import UsageError
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import AttentionCall, on_attention
from llmcli.inspection.core.text_spans import TextSpan
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.inspection.core.value_norms import ValueLengths
from llmcli.text.tokenizer import Tokenizer

# Weights held at a time, in float32: 64 MiB.
_WEIGHTS_AT_ONCE = 1 << 24
_TINY = 1e-30


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


class _Pool:
    """Attention of some rows to every position, averaged over heads and summed over blocks."""

    def __init__(self, rows: int, end: int, device: torch.device) -> None:
        self._attention = torch.zeros(rows, end, device=device)
        self._moved = torch.zeros(rows, end, device=device)
        self._blocks = 0

    def add(self, call: AttentionCall, lengths: Tensor, queries: Sequence[int], head: int | None = None) -> None:
        """Count in the rows of `queries`, ascending numbers among the T of `call`; `lengths` (H, S), the values'."""
        of = slice(None) if head is None else slice(head, head + 1)
        first = self._attention.shape[1] - call.seen
        step = max(1, _WEIGHTS_AT_ONCE // (call.q.shape[1] * call.seen))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            weights = call.weights(some[0], some[-1] + 1)[0]  # (H, R', S)
            if len(some) < weights.shape[1]:
                weights = weights[:, [query - some[0] for query in some]]
            rows = slice(start, start + len(some))
            self._attention[rows, first:] += weights[of].mean(0)
            moved = (weights[of] * lengths[of, None]).sum(0)
            self._moved[rows, first:] += moved_shares(moved)
        self._blocks += 1

    def row(self, number: int) -> tuple[Tensor, Tensor]:
        """Attention and what it moved, averaged over blocks: both (S,), all positions to the end of the pass."""
        blocks = max(self._blocks, 1)
        return self._attention[number] / blocks, self._moved[number] / blocks


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
    lengths = ValueLengths(model)
    end = 0
    here: list[int] = []  # the wanted positions of the pass
    pools: dict[int | None, _Pool] = {}  # for all blocks together (None), and for each
    found: list[Reading] = []

    def see(call: AttentionCall) -> None:
        lengths.note(call, end)
        moved = lengths.of(call.block, end - call.seen, end)
        queries = [position - end + call.new for position in here]
        for block in (None, call.block):
            if block in pools and queries:
                pools[block].add(call, moved, queries, head)

    def finish() -> None:
        for number, position in enumerate(here):
            of = {
                block: attention_row(loaded.tokenizer, ids, position, *pool.row(number), top=top, spans=spans)
                for block, pool in pools.items()
            }
            each = tuple(BlockReading(block, row) for block, row in of.items() if block is not None)
            found.append(Reading(of[None], each))

    with on_attention(model, see, only=chosen):
        for start, stop in passes(model, ids, progress):
            finish()
            end, here = stop, [position for position in positions if start <= position < stop]
            names = [None, *(chosen if each_block else ())]
            pools = {name: _Pool(len(here), end, model.device) for name in names}
    finish()
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


def moved_shares(moved: Tensor) -> Tensor:
    """What a block moved (..., S), in shares of the whole row.

    Every block is to count alike: the residual stream grows from block to block, and lengths with it.
    """
    return moved / moved.sum(-1, keepdim=True).clamp(min=_TINY)


def attention_row(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    position: int,
    attention: Tensor,
    moved: Tensor,
    *,
    top: int,
    spans: Sequence[TextSpan] = (),
) -> AttentionRow:
    """A row in words; `attention` and `moved` (S,) are its plain and its weighted means over all positions so far."""
    sink = float(attention[0])
    own = float(attention[position]) if position else 0.0
    moved = moved[: position + 1].clone()
    # What is parked on the first token, and what the token keeps of itself, is not reading.
    moved[0] = moved[position] = 0
    moved /= moved.sum().clamp(min=_TINY)
    sums = moved
    if spans:
        until = torch.cat((moved.new_zeros(1), moved.cumsum(0)))
        stops = torch.tensor([min(span.stop, position + 1) for span in spans], device=moved.device)
        starts = torch.tensor([min(span.start, position + 1) for span in spans], device=moved.device)
        sums = until[stops] - until[starts]
    best = sums.topk(min(top, len(sums)))
    read = []
    for weight, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if weight > 0:
            span = spans[index] if spans else TextSpan(tokenizer.token_text(ids[index]), index, index + 1)
            read.append(Read(span.start, span.text, weight))
    return AttentionRow(position, sink, own, tuple(read))
