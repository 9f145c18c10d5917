"""Attention of a finished reply, from one pass of the readable model over prompt and reply.

The reply itself comes from the engine and does not depend on whether its attention is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmcli.engine import AttentionRow
from llmcli.engine.context_limit import memory_for_text
from llmcli.inspection.attention.rows import AttentionRows
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import attention_blocks, on_attention, on_residual
from llmcli.inspection.core.text_spans import Spans
from llmcli.loaded_model import LoadedModel

# Logits held at a time, in float32: 64 MiB.
_LOGITS_AT_ONCE = 1 << 24


class ReplyAttention:
    """The attention rows of a reply's tokens, and optionally their log-probabilities in the readable model.

    The pass is made in chunks to bound memory; the results of finished chunks remain if it is interrupted.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Sequence[int],
        reply: Sequence[int],
        *,
        spans: Spans,
        top: int = 5,
        logprobs: bool = False,
    ) -> None:
        """Each row names its `top` tokens, or its `top` text spans as cut by `spans`."""
        self._loaded, self._prompt, self._reply = loaded, prompt, reply
        self._spans, self._top = spans, top
        self._wants_logprobs = logprobs
        self.rows: list[AttentionRow] = []
        """For each reply token, the attention of the position that predicted it; fewer if interrupted."""
        self.logprobs: list[float] = []
        """For each reply token, its log-probability (nats) in the readable model, if requested."""

    @torch.inference_mode()
    def read(self, progress: Callable[[int, int], None]) -> None:
        """Run the pass, if any block has attention; `progress` is called with (tokens done, all tokens).

        Raises:
            OutOfMemoryError: the pass needs too much memory.
        """
        if not self._reply or not attention_blocks(self._loaded.config):
            return
        model = self._loaded.model
        # The last token predicts nothing in the reply, so it is left out.
        ids = [*self._prompt, *self._reply[:-1]]
        rows = AttentionRows(model, range(len(self._prompt) - 1, len(ids)))
        blocks = model.config.num_layers
        start = 0

        def see_residual(layer: int, residual: Tensor) -> None:
            if layer == blocks and self._wants_logprobs:
                self._note_logprobs(residual[0], start)

        with (
            memory_for_text(model, len(ids)),
            on_attention(model, rows.see),
            on_residual(model, see_residual),
        ):
            for start, _ in passes(model, ids, progress):
                if start:
                    self._take(rows, ids)
            self._take(rows, ids)

    def _take(self, rows: AttentionRows, ids: Sequence[int]) -> None:
        for position in rows.here:
            spans = self._spans.of(ids[: position + 1])
            found = rows.taken(self._loaded.tokenizer, ids, position, top=self._top, spans=spans)
            self.rows.append(found[None])

    def _note_logprobs(self, residual: Tensor, start: int) -> None:
        """Compute the reply tokens' log-probabilities from `residual` (T, C), which begins at position `start`."""
        model, vocabulary = self._loaded.model, self._loaded.tokenizer.vocab_size
        first = max(len(self._prompt) - 1 - start, 0)
        for places in torch.split(residual[first:], max(1, _LOGITS_AT_ONCE // vocabulary)):
            if not len(places):
                return
            logprobs = model.unembed(places)[..., :vocabulary].float().log_softmax(-1)
            begin = len(self.logprobs)
            targets = torch.tensor(self._reply[begin : begin + len(places)], device=logprobs.device)
            self.logprobs += logprobs.gather(-1, targets[:, None])[:, 0].tolist()
