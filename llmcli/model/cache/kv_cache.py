"""The key-value cache: what attention has computed for earlier tokens, kept so that each token is read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.huge_pages import Pages

_SMALLEST_CAPACITY = 256
# Positions from which on a layer's memory comes in huge pages.
_LARGE = 1024
# How far `truncate` can always go back in a layer that forgets: for a rejected draft or a retyped word.
REWIND = 64
# New tokens between two moves of the kept window: moving costs a copy of it.
ROOM = 256


class LayerCache(Protocol):
    """What attention asks of a cache."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (B, K, T, D); return those that they see."""


class CacheSegment(NamedTuple):
    """One layer's memory: `keys` (B, K, size, D) and `values` (B, K, size, D) of the positions from `first` on."""

    keys: Tensor
    values: Tensor
    first: int

    @property
    def end(self) -> int:
        """The first position that does not fit."""
        return self.first + self.keys.shape[2]


class KVCache:
    """Keys and values of every layer for the tokens read so far.

    `layers` holds a `CacheSegment` for each. A layer that sees everything keeps everything: its memory is reserved
    ahead and doubled when full, so appending one token costs no allocation. A layer with a window or chunks keeps what
    the next token may see, and a little more; when its memory is full the kept part moves to the front of a new one.

    `expected_length` is how long the text is known to become, in tokens; rotations that depend on the length of the
    text go by it, so that all its tokens are rotated alike. Setting it does not change what is cached already.

    A layer with a window or chunks keeps the last `rewind` tokens it would forget, and has memory for `room` new tokens
    between two moves.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int = 1,
        capacity: int = _SMALLEST_CAPACITY,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        rewind: int = REWIND,
        room: int = ROOM,
    ) -> None:
        self.expected_length = 0
        self._rewind, self._room = rewind, room
        self._kinds = config.layers
        self._limit = config.context_length
        self._dtype, self._device = dtype, torch.device(device)
        self._pages = Pages()
        heads, key_size, value_size = config.cached_widths

        def empty(layer: LayerConfig, width: int) -> Tensor:
            size = max(1, min(capacity, self._steady_size(layer)))
            return self._empty((batch, heads, size, width))

        self.layers = [CacheSegment(empty(layer, key_size), empty(layer, value_size), 0) for layer in config.layers]
        self._length = 0
        # The capacity, at least: asked for at every token, while memory changes rarely.
        self._fits = self.capacity
        # Counted before anything moves: whoever is interrupted in between has counted too much, never too little.
        self._moves = 0

    @property
    def length(self) -> int:
        """Tokens that have been read."""
        return self._length

    @property
    def capacity(self) -> int:
        """Tokens in all that fit before memory must be had in some layer."""
        return min(segment.end for segment in self.layers)

    @property
    def moves(self) -> int:
        """How often any layer's segment has become another one: addresses hold as long as this number does."""
        return self._moves

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not."""
        return sum(segment.keys.nbytes + segment.values.nbytes for segment in self.layers)

    def reserve(self, length: int) -> None:
        """Make room ahead for `length` tokens in all, in the layers that keep all of them."""
        if length <= self._fits:
            return
        self._moves += 1
        with one_thread():
            # Assigned at the end: growing that is interrupted, or runs out of memory, leaves the cache as it was.
            self.layers = [
                segment if layer.is_windowed else self._with_room(layer, segment, length)
                for layer, segment in zip(self._kinds, self.layers, strict=True)
            ]
        self._fits = self.capacity

    def begin(self, new: int) -> None:
        """Make room in every layer for a pass of `new` tokens, keeping what they may see."""
        if self._length + new <= self._fits:
            return
        self._moves += 1
        with one_thread():
            for index, layer in enumerate(self._kinds):
                # One layer at a time, so that there is never a second copy of more than one.
                self.layers[index] = self._with_room(layer, self.layers[index], self._length + new)
        self._fits = self.capacity

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (B, K, T, D); return those that they see, (B, K, S, D).

        These are the positions from the first that the first new token sees to the last new one. The length moves only
        with `advance`, once every layer has stored its part: a pass that is interrupted half-way leaves the cache as it
        was.
        """
        all_keys, all_values, first = self.layers[layer]
        start = self._length - first
        end = start + keys.shape[2]
        all_keys[:, :, start:end] = keys
        all_values[:, :, start:end] = values
        seen = self._kinds[layer].first_visible(self._length) - first
        return all_keys[:, :, seen:end], all_values[:, :, seen:end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` new tokens as read, after every layer has stored them."""
        self._length += tokens

    def reusable(self, length: int) -> int:
        """The most tokens, but no more than `length`, that `truncate` can go back to.

        That is `length` where every layer still holds what the token after it would see: always if no layer forgets,
        and always within 64 tokens of the most that were ever held. Otherwise it is 0.
        """
        length = min(length, self._length)
        held = all(
            segment.first <= layer.first_visible(length)
            for layer, segment in zip(self._kinds, self.layers, strict=True)
        )
        return length if held else 0

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            ValueError: more than there are, or a layer has forgotten what the next token would see (see `reusable`).
        """
        if not 0 <= length <= self._length or length != self.reusable(length):
            raise ValueError(f"cannot truncate a cache of {self._length} tokens to {length}")
        if length == 0:
            self._moves += 1
            self.layers = [segment._replace(first=0) for segment in self.layers]
            self._fits = self.capacity
        self._length = length

    @contextmanager
    def rereading(self, position: int) -> Iterator[None]:
        """Inside the block the text ends before `position`, and one token can be read there; then all is as it was.

        The first position is not one of those: to go back to nothing is to begin anew.

        Raises:
            ValueError: the text does not reach there, or a layer has forgotten what that token sees (see `reusable`).
        """
        if position == 0:
            raise ValueError("the first token cannot be read again")
        length = self._length
        held = [
            (keys[:, :, at], values[:, :, at], keys[:, :, at].clone(), values[:, :, at].clone())
            for keys, values, first in self.layers
            if (at := position - first) >= 0 and position < length
        ]
        self.truncate(position)
        try:
            yield
        finally:
            self._length = length
            for keys, values, old_keys, old_values in held:
                keys.copy_(old_keys)
                values.copy_(old_values)

    def _with_room(self, layer: LayerConfig, segment: CacheSegment, end: int) -> CacheSegment:
        """`segment`, or a copy of what must be kept of it in memory that reaches to position `end`."""
        if end <= segment.end:
            return segment
        first = 0
        if layer.is_windowed:
            first = max(segment.first, layer.first_visible(max(0, self._length - self._rewind)))
        # Doubling, but not past the most the layer can ever hold.
        size = max(end - first, min(2 * segment.keys.shape[2], self._steady_size(layer)))
        return CacheSegment(
            self._moved(segment.keys, segment.first, first, size),
            self._moved(segment.values, segment.first, first, size),
            first,
        )

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        # A short text is read from the processor's own memory, and huge pages would be filled by few of its tokens.
        if self._device.type == "cpu" and shape[2] >= _LARGE:
            return self._pages.empty(shape, self._dtype)
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _moved(self, tensor: Tensor, old_first: int, first: int, size: int) -> Tensor:
        moved = self._empty((*tensor.shape[:2], size, tensor.shape[3]))
        kept = tensor[:, :, first - old_first : self._length - old_first]
        moved[:, :, : kept.shape[2]] = kept
        return moved

    def _steady_size(self, layer: LayerConfig) -> int:
        """Positions for which a layer needs memory in the long run."""
        visible = layer.window or layer.chunk
        return self._limit if visible is None else min(self._limit, visible + self._rewind + self._room)
