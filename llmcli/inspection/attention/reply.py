"""What a reply paid attention to, read once it is over in a pass of the readable model over prompt and reply.

The reply itself comes from the engine, and is the same whether or not its attention is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmcli.api import LoadedModel
from llmcli.engine import AttentionRow
from llmcli.engine.context_limit import memory_for_text
from llmcli.inspection.attention.rows import AttentionRows
from llmcli.inspection.core.activations import passes
from llmcli.inspection.core.hooks import AttentionCall, on_attention, on_residual
from llmcli.inspection.core.text_spans import Spans

# Logits held at a time, in float32: 64 MiB.
_LOGITS_AT_ONCE = 1 << 24


class ReplyAttention:
    """The attention rows of a reply's tokens, and the readable model's log-probabilities of them where asked for.

    The pass is made in chunks, so that memory stays bounded; what is found grows chunk by chunk and stays where the
    pass is interrupted.
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
        """Of each row the `top` tokens are named, or the stretches of the text so far that `spans` cuts it into."""
        self._loaded, self._prompt, self._reply = loaded, prompt, reply
        self._spans, self._top = spans, top
        self._wants_logprobs = logprobs
        self.rows: list[AttentionRow] = []
        """For each token of the reply what the token before it paid attention to; fewer if interrupted."""
        self.logprobs: list[float] = []
        """For each token of the reply its log-probability (nats) in the readable model, if asked for."""

    @torch.inference_mode()
    def read(self, progress: Callable[[int, int], None]) -> None:
        """Make the pass; `progress` hears the tokens read, in proportion to the blocks passed, and how many there are.

        Raises:
            OutOfMemoryError: the text or its reading takes too much memory.
        """
        if not self._reply:
            return
        model = self._loaded.model
        # The last token is not read: nothing follows it.
        ids = [*self._prompt, *self._reply[:-1]]
        rows = AttentionRows(model, range(len(self._prompt) - 1, len(ids)))
        blocks = model.config.num_layers
        start = 0

        def see(call: AttentionCall) -> None:
            rows.see(call)
            progress(start + call.new * (call.block + 1) // blocks, len(ids))

        def see_residual(layer: int, residual: Tensor) -> None:
            if layer == blocks and self._wants_logprobs:
                self._note_logprobs(residual[0], start)

        progress(0, len(ids))
        with (
            memory_for_text(model, len(ids)),
            on_attention(model, see),
            on_residual(model, see_residual),
        ):
            for start, _ in passes(model, ids):
                if start:
                    self._take(rows, ids)
            self._take(rows, ids)

    def _take(self, rows: AttentionRows, ids: Sequence[int]) -> None:
        for position in rows.here:
            spans = self._spans.of(ids[: position + 1])
            found = rows.taken(self._loaded.tokenizer, ids, position, top=self._top, spans=spans)
            self.rows.append(found[None])

    def _note_logprobs(self, residual: Tensor, start: int) -> None:
        """Take from `residual` (T, C), of the tokens from position `start` on, what it gives to the reply's tokens."""
        model, vocabulary = self._loaded.model, self._loaded.tokenizer.vocab_size
        first = max(len(self._prompt) - 1 - start, 0)
        for places in torch.split(residual[first:], max(1, _LOGITS_AT_ONCE // vocabulary)):
            if not len(places):
                return
            logprobs = model.unembed(places)[..., :vocabulary].float().log_softmax(-1)
            begin = len(self.logprobs)
            targets = torch.tensor(self._reply[begin : begin + len(places)], device=logprobs.device)
            self.logprobs += logprobs.gather(-1, targets[:, None])[:, 0].tolist()
