"""A key-value cache for texts that begin like those of another cache, and of which only what follows is computed.

Dimension letters: B texts of the trunk, N branches of each, K kv heads, T new tokens, S keys, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model.cache.kv_cache import KVCache
from llmcli.model.config import LayerConfig


class BranchCache:
    """N x B texts, each of which shares its first `length` tokens with one of the B texts that `trunk` holds.

    The texts are in B's order, N times. What is appended is handed out and not kept: a pass reads all that follows the
    trunk at once.
    """

    def __init__(self, trunk: KVCache, kinds: tuple[LayerConfig, ...], length: int) -> None:
        """`trunk` has read the whole of its texts in one pass, so that no layer has forgotten anything."""
        self._trunk, self._kinds, self._length = trunk, kinds, length

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All that the new tokens see, (N x B, K, S, D): the trunk's, then `keys` and `values` (N x B, K, T, D)."""
        trunk_keys, trunk_values, first = self._trunk.layers[layer]
        seen = slice(self._kinds[layer].first_visible(self._length) - first, self._length - first)
        return _joined(trunk_keys[:, :, seen], keys), _joined(trunk_values[:, :, seen], values)


def _joined(trunk: Tensor, own: Tensor) -> Tensor:
    branches = len(own) // len(trunk)
    shared = trunk.expand(branches, *trunk.shape).flatten(0, 1)
    return torch.cat((shared, own), dim=2)
