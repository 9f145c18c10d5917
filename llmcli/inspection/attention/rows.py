"""Attention rows: how much the token at a position attends to every earlier token, over all heads.

The row at position i helps to predict the token after it. There are two measures. `sink` and `self` are plain shares
of attention, averaged over heads and blocks: most models park unused attention on the first token. `read` is ranked by
`a_ij ||v_j W_O||`, attention times the norm of the value it moves (Kobayashi et al. 2020, arXiv:2004.10102, eq. 4); it
leaves out the first token and the row's own token and sums to 1 over the others.

Dimension letters: T new tokens, S keys, H query heads, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.engine import AttentionRow, Read
from llmcli.inspection.core.hooks import AttentionCall, attention_blocks
from llmcli.inspection.core.text_spans import TextSpan
from llmcli.inspection.core.value_norms import ValueLengths
from llmcli.model import Transformer
from llmcli.text.tokenizer import Tokenizer

# Attention weights held at a time, in float32: 64 MiB.
_WEIGHTS_AT_ONCE = 1 << 24
_TINY = 1e-30


class AttentionRows:
    """Accumulates the rows at chosen positions during forward passes; `see` is a callback for `on_attention`.

    The text is read from its beginning in one or several passes. Between passes only the norms of value vectors are
    kept, so memory grows with the rows of one pass.
    """

    def __init__(
        self,
        model: Transformer,
        positions: Sequence[int],
        *,
        only: Sequence[int] | None = None,
        head: int | None = None,
        each_block: bool = False,
    ) -> None:
        """`positions` and the blocks in `only` are ascending; `head` selects one head of each block."""
        self._positions = positions
        self._blocks = attention_blocks(model.config) if only is None else only
        self._head, self._each_block = head, each_block
        self._lengths = ValueLengths(model)
        self._device = model.device
        self._end = 0
        self._here: list[int] = []  # the wanted positions of the last pass
        self._pools: dict[int | None, _Pool] = {}  # for all blocks together (None), and for each

    def see(self, call: AttentionCall) -> None:
        """Add the attention of one block in the current pass."""
        if call.block == self._blocks[0]:
            start, self._end = self._end, self._end + call.new
            self._here = [position for position in self._positions if start <= position < self._end]
            names = [None, *(self._blocks if self._each_block else ())]
            self._pools = {name: _Pool(len(self._here), self._end, self._device) for name in names}
        self._lengths.note(call, self._end)
        if not self._here:
            return
        moved = self._lengths.of(call.block, self._end - call.seen, self._end)
        queries = [position - self._end + call.new for position in self._here]
        for block in (None, call.block):
            if block in self._pools:
                self._pools[block].add(call, moved, queries, self._head)

    def taken(
        self, tokenizer: Tokenizer, ids: Sequence[int], position: int, *, top: int, spans: Sequence[TextSpan] = ()
    ) -> dict[int | None, AttentionRow]:
        """The row at one of the `here` positions: over all blocks (key None), and with `each_block` one per block.

        `ids` are the tokens of the text.
        """
        number = self._here.index(position)
        return {
            block: _row(tokenizer, ids, position, *pool.row(number), top=top, spans=spans)
            for block, pool in self._pools.items()
        }

    @property
    def here(self) -> Sequence[int]:
        """The chosen positions in the last pass."""
        return self._here


class _Pool:
    """Attention of some rows to every position, averaged over heads and summed over blocks."""

    def __init__(self, rows: int, end: int, device: torch.device) -> None:
        self._attention = torch.zeros(rows, end, device=device)
        self._moved = torch.zeros(rows, end, device=device)
        self._blocks = 0

    def add(self, call: AttentionCall, lengths: Tensor, queries: Sequence[int], head: int | None = None) -> None:
        """Add the rows of `queries` (ascending indices among the T of `call`); `lengths` (H, S) are value norms."""
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
            # Give every block the same weight: the residual stream grows from block to block, and norms with it.
            self._moved[rows, first:] += moved / moved.sum(-1, keepdim=True).clamp(min=_TINY)
        self._blocks += 1

    def row(self, number: int) -> tuple[Tensor, Tensor]:
        """Attention and value-weighted attention, averaged over blocks; both (S,), up to the end of the pass."""
        blocks = max(self._blocks, 1)
        return self._attention[number] / blocks, self._moved[number] / blocks


def _row(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    position: int,
    attention: Tensor,
    moved: Tensor,
    *,
    top: int,
    spans: Sequence[TextSpan] = (),
) -> AttentionRow:
    """Build a row from the plain (`attention`) and the value-weighted (`moved`) means over positions, both (S,)."""
    sink = float(attention[0])
    own = float(attention[position]) if position else 0.0
    moved = moved[: position + 1].clone()
    # `read` leaves out the sink and the token itself.
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
