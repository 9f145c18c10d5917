"""Key-value cache for texts that share a cached beginning, so that only their continuations are computed.

Dimension letters: B texts of the trunk, N branches of each, K kv heads, T new tokens, S keys, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model.cache.kv_cache import KVCache
from llmcli.model.cache.state import State
from llmcli.model.config import LayerConfig


class BranchCache:
    """N x B texts, each sharing its first `length` tokens with one of the B texts in `trunk`.

    The texts are in B's order, N times. Appended keys and values are returned but not kept: one forward pass reads
    everything after the trunk. Layers with states cannot branch off: the trunk has them only after its last token.
    """

    def __init__(self, trunk: KVCache, kinds: tuple[LayerConfig, ...], length: int) -> None:
        """`trunk` must have read its texts in one forward pass, so that no layer has dropped positions."""
        self._trunk, self._kinds, self._length = trunk, kinds, length

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The visible keys and values, (N x B, K, S, D): the trunk's, then `keys` and `values` (N x B, K, T, D)."""
        first = self._kinds[layer].first_visible(self._length)
        trunk_keys, trunk_values = self._trunk.read(layer, first, self._length)
        return _joined(trunk_keys, keys), _joined(trunk_values, values)

    def append_inputs(self, layer: int, values: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """What the new blocks need, (N x B, S, W): the trunk's, then `values` and `gates` (N x B, T, W)."""
        memory = self._trunk.blocks[layer]
        trunk_values, trunk_gates = memory.read_inputs(memory.blocks.first_needed(self._length), self._length)
        return _joined(trunk_values, values, 1), _joined(trunk_gates, gates, 1)

    def append_entries(self, layer: int, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks: the trunk's, then `rows` (N x B, 1, M, D) and `keys` (N x B, 1, M, E)."""
        memory = self._trunk.blocks[layer]
        trunk_rows, trunk_keys = memory.entries.read(0, memory.blocks.complete(self._length))
        return _joined(trunk_rows, rows), _joined(trunk_keys, keys)

    def state(self, layer: int) -> State | None:
        """Not possible, see above."""
        raise NotImplementedError("texts with states cannot branch off")

    def store(self, layer: int, state: State) -> None:
        """Not possible, see above."""
        raise NotImplementedError("texts with states cannot branch off")


def _joined(trunk: Tensor, own: Tensor, positions: int = 2) -> Tensor:
    """Both, one after the other along the dimension `positions`."""
    branches = len(own) // len(trunk)
    shared = trunk.expand(branches, *trunk.shape).flatten(0, 1)
    return torch.cat((shared, own), dim=positions)
