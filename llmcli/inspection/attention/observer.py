"""Looking on while tokens are generated: what each was made from, beside the plain path and without slowing it much.

Dimension letters: L blocks, S keys, H query heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from llmcli.engine import AttentionRow
from llmcli.inspection.attention.summary import attention_row, moved_shares
from llmcli.inspection.core.hooks import AttentionCall, on_attention
from llmcli.inspection.core.text_spans import Spans
from llmcli.inspection.core.value_norms import ValueLengths
from llmcli.model import Transformer
from llmcli.text.tokenizer import Tokenizer

# Bytes.
_KEYS_AT_MOST = 32 << 20


class AttentionWatch:
    """An engine's observer: what the last token that was read paid attention to."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, top: int = 5, spans: Spans | None = None) -> None:
        """Of each row the `top` tokens are told, or stretches of the text as `spans` cuts it."""
        self._model, self._tokenizer, self._top = model, tokenizer, top
        self._spans = spans
        self._lengths = ValueLengths(model)
        self._calls: list[AttentionCall] = []  # of the last pass
        self._end = 0
        self._keys = torch.empty(0)
        self._keys_end = 0

    @contextmanager
    def watching(self, start: int) -> Iterator[None]:
        """Look at the passes inside the block, the first of which reads the tokens from position `start` on."""
        self._end = start
        with on_attention(self._model, self._see):
            yield

    @torch.inference_mode()
    def taken(self, ids: Sequence[int]) -> AttentionRow:
        """What the last of the tokens read, which are `ids`, paid attention to."""
        if self._calls[0].new == 1:
            self._lengths.note_one(self._calls, self._end)
        weights = self._weights()
        attention = weights.mean((0, 1))
        moved = moved_shares((weights * self._lengths.all(self._end)).sum(1)).mean(0)
        spans = [] if self._spans is None else self._spans.of(ids)
        return attention_row(self._tokenizer, ids, len(ids) - 1, attention, moved, top=self._top, spans=spans)

    def _see(self, call: AttentionCall) -> None:
        if call.block == 0:
            self._end += call.new
            self._calls = []
        if call.new > 1:
            self._keys_end = -1
            self._lengths.note(call, self._end)
        self._calls.append(call)

    def _weights(self) -> Tensor:
        """(L, H, S): how every head of every block weighs all positions, for the last query."""
        first = self._calls[0]
        together = all(
            call.new == 1 and call.seen == self._end and getattr(call.attention, "sinks", None) is None
            for call in self._calls
        )
        # A token at a time, it is the number of operations that costs; in long texts, a second copy of the keys would.
        if together and len(self._calls) * first.k.nbytes <= _KEYS_AT_MOST:
            q = torch.cat([call.q for call in self._calls]).float()
            return first.attention.attend.weights(q, self._all_keys())[:, :, 0]
        weights = self._lengths.all(self._end).new_zeros(len(self._calls), first.q.shape[1], self._end)
        for block, call in enumerate(self._calls):
            weights[block, :, self._end - call.seen :] = call.weights(call.new - 1, call.new)[0, :, 0]
        return weights

    def _all_keys(self) -> Tensor:
        """(L, K, S, D): the keys of all blocks in one float32 tensor, to which each pass of one token adds its own."""
        start = self._end - 1 if self._keys_end == self._end - 1 else 0
        kv_heads, seen, size = self._calls[0].k.shape[1:]
        if start == 0 or self._keys.shape[2] < seen:
            start = 0
            shape = (len(self._calls), kv_heads, 2 * seen, size)
            self._keys = torch.empty(shape, device=self._calls[0].k.device)
        self._keys[:, :, start:seen] = torch.cat([call.k[:, :, start:] for call in self._calls])
        self._keys_end = self._end
        return self._keys[:, :, :seen]
