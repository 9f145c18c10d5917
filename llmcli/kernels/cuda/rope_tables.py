"""Tables of cosines and sines, for kernels that read the position from device memory."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model import KVCache, RopeConfig, Transformer
from llmcli.model.attention.rope import Rope

_AHEAD = 1024


class Rotations:
    """Cosines and sines of a range of positions, for each distinct RoPE of a model, at fixed addresses."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._ropes = [rope for rope in model.ropes if isinstance(rope, Rope)]
        self.tables: dict[RopeConfig, tuple[Tensor, Tensor]] = {
            rope.config: (self._empty(rope), self._empty(rope)) for rope in self._ropes
        }
        """Cosines and sines (positions, R / 2) in float32, rounded to the type that the `RopeConfig` calls for."""
        self._filled = [(0, -1)] * len(self._ropes)

    def reach(self, cache: KVCache, new: int) -> int:
        """Update the tables for `new` tokens after those in `cache`; returns the first position of all tables."""
        first = cache.length // (_AHEAD // 2) * (_AHEAD // 2)
        length = cache.rope_length(new)
        for index, rope in enumerate(self._ropes):
            wanted = first, rope.config.decisive_length(length)
            if wanted != self._filled[index]:
                positions = torch.arange(first, first + _AHEAD, device=self._model.device)
                values = rope(positions, self._model.dtype, length)
                for table, computed in zip(self.tables[rope.config], values, strict=True):
                    table.copy_(computed)
                self._filled[index] = wanted
        return first

    def _empty(self, rope: Rope) -> Tensor:
        return torch.zeros(_AHEAD, rope.config.rotary_dim // 2, device=self._model.device)
