"""The readable model in the place of a fast path that turned out not to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.kernels.base import DEVICE_CHUNK, readable_logits, readable_path
from llmcli.model import KVCache, Transformer


class ReadableStep:
    """Runs the model itself."""

    prefill_chunk = DEVICE_CHUNK

    def __init__(self, model: Transformer, reason: str) -> None:
        """`reason` says why there is nothing faster."""
        self._model = model
        self.name = readable_path(model, reason)

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V)."""
        return readable_logits(self._model, ids, cache, only_last=only_last)

    @torch.inference_mode()
    def forward_unseen(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits in float32 (1, V) after `token` (1,), which only the device knows."""
        logits: Tensor = self._model(token[None], cache)
        return logits[0].float()
