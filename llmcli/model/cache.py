"""The key-value cache: what attention has computed for earlier tokens, kept so that each token is read once."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model.config import ModelConfig

_SMALLEST_CAPACITY = 256


class KVCache:
    """Keys and values of every layer for the tokens read so far.

    `layers` holds for each one tensor of keys and one of values, (B, K, capacity, D): batch, kv heads, positions, head
    size.
    Memory is reserved ahead and doubled when full, so appending one token costs no allocation.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int = 1,
        capacity: int = _SMALLEST_CAPACITY,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._limit = config.context_length
        shape = (batch, config.num_kv_heads, max(capacity, 1), config.head_dim)
        self.layers = [
            (torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
            for _ in config.layers
        ]
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens whose keys and values every layer holds."""
        return self._length

    @property
    def capacity(self) -> int:
        """Tokens that fit before memory must grow."""
        return self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all, keeping what is there."""
        if length <= self.capacity:
            return
        # Doubling, but not past the most the model can ever hold.
        capacity = max(length, min(2 * self.capacity, self._limit))
        # One assignment at the end: growing that is interrupted, or runs out of memory, leaves the cache as it was.
        self.layers = [(self._grown(keys, capacity), self._grown(values, capacity)) for keys, values in self.layers]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (B, K, T, D); return all of the layer's so far, (B, K, S, D).

        The length moves only with `advance`, once every layer has stored its part: a pass that is interrupted
        half-way leaves the cache as it was.
        """
        end = self._length + keys.shape[2]
        all_keys, all_values = self.layers[layer]
        all_keys[:, :, self._length : end] = keys
        all_values[:, :, self._length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` new tokens as read, after every layer has stored them."""
        self._length += tokens

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot truncate a cache of {self._length} tokens to {length}")
        self._length = length

    def _grown(self, tensor: Tensor, capacity: int) -> Tensor:
        grown = tensor.new_empty((*tensor.shape[:2], capacity, tensor.shape[3]))
        grown[:, :, : self._length] = tensor[:, :, : self._length]
        return grown
