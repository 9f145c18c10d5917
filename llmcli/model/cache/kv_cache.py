"""The key-value cache: keys and values of earlier tokens, kept so that each token is computed once.

Layers that remember the text in a state keep that instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.model.cache.block_cache import BlockCache, new_block_cache
from llmcli.model.cache.huge_pages import Pages
from llmcli.model.cache.int8_rows import pack_rows, unpack_rows
from llmcli.model.cache.segment import CacheSegment
from llmcli.model.cache.state import State, StateCache
from llmcli.model.cache.text_states import TextStates
from llmcli.model.config import LayerConfig, ModelConfig

_SMALLEST_CAPACITY = 256
# Number of positions, and bytes of all layers together, from which on memory comes in huge pages. Each piece of them
# ends with a page that is used in part, up to 2 MiB that `nbytes` does not count; fewer bytes are within reach of the
# processor's TLB with small pages too.
_LARGE, _LARGE_BYTES = 512, 8 << 20
# Tokens that `truncate` can always go back in a windowed layer: for a rejected draft or a retyped word.
REWIND = 64
# New tokens between two moves of a kept window; each move copies it.
ROOM = 256


class LayerCache(StateCache, Protocol):
    """The interface of a cache that attention and recurrent layers use."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (B, K, T, D); return all keys and values visible to them."""

    def append_inputs(self, layer: int, values: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `values` and `gates` (B, T, W) for compressed blocks; return those needed now.

        These (B, S, W) begin at `BlocksConfig.first_needed` of the first new token.
        """

    def append_entries(self, layer: int, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Store rows (B, 1, N, D) and keys of the index (B, 1, N, E) of N new blocks; return those of all blocks."""


class KVCache:
    """Keys and values of every layer for the tokens read so far.

    `layers` holds a `CacheSegment` for each layer. A layer that reads the keys and values of another has that layer's
    segment. A layer with full attention keeps all positions: its memory is
    reserved ahead and doubled when full, so appending one token costs no allocation. A layer with a window or chunks
    keeps the positions that the next token may see and the `rewind` before them; when its memory is full, the kept part
    is copied to the front of a new segment with memory for `room` more tokens. A layer with a state has a segment
    without heads, which takes no memory.

    `blocks` holds the memory of the layers with compressed blocks, by layer.

    A text can be truncated to any length that its segments still hold; with states, only to those where it has a mark.
    Marks also hold what short convolutions and heads with shared rows see, and what incomplete blocks need, so that
    those do not limit how far a text can go back.

    With `ModelConfig.int8_cache`, attention keeps keys and values in 8 bits, and reads what they were rounded to.

    `expected_length` is the greatest length the text will reach, in tokens, set before the first of them is read.
    Rotations that depend on the length use it, so all tokens of a text are rotated alike.
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
        # The layers whose windows marks hold.
        self._marked = [index for index, layer in enumerate(config.layers) if config.marks_window(layer)]
        self._sizes = [config.cached_widths(layer)[1:] for layer in config.layers]
        self._limit = config.context_length
        self._dtype, self._device = dtype, torch.device(device)
        self._pages = Pages(), Pages()
        self._token_bytes = batch * config.kv_bytes_per_token(dtype.itemsize)
        self._states = TextStates(config, dtype.itemsize)

        def empty(layer: LayerConfig) -> CacheSegment:
            heads, *widths = config.cached_widths(layer)
            size = max(1, min(capacity, self._steady_size(layer)))
            kept = torch.int8 if config.caches_int8(layer) else dtype
            keys, values = (self._empty((batch, heads, size, config.cache_row(layer, width)), kept) for width in widths)
            return CacheSegment(keys, values, 0)

        self.layers: list[CacheSegment] = []
        for layer in config.layers:
            self.layers.append(empty(layer) if layer.kv_from is None else self.layers[layer.kv_from])
        self.blocks: dict[int, BlockCache] = {
            index: new_block_cache(
                layer.blocks,
                (config.head_dim, config.block_size(layer) - config.head_dim),
                batch=batch,
                capacity=min(capacity, self._limit),
                dtype=dtype,
                allocate=self._empty,
            )
            for index, layer in enumerate(config.layers)
            if layer.blocks is not None
        }
        # At most the capacity: read at every token, while memory changes rarely.
        self._fits = self.capacity
        # Counted before anything moves, so that an interruption can make the count too high but never too low.
        self._moves = 0

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._states.now.length

    @property
    def needs_marks(self) -> bool:
        """Whether the text cannot go back far without marks: layers have states, or windows that marks hold."""
        return self._states.has_state or bool(self._marked)

    @property
    def capacity(self) -> int:
        """Total number of tokens that fit before some layer must allocate memory."""
        return min([segment.end for segment in self.layers] + [memory.fits for memory in self.blocks.values()])

    @property
    def moves(self) -> int:
        """How often any layer's segment was replaced: memory addresses are valid while this number is unchanged."""
        return self._moves

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not, and those of states and marks."""
        segments = sum(segment.nbytes for segment in self._own)
        return segments + sum(memory.nbytes for memory in self.blocks.values()) + self._states.nbytes

    def reserve(self, length: int) -> None:
        """Allocate ahead for a total of `length` tokens, in the layers that keep all of them."""
        if length <= self._fits:
            return
        self._replace_segments()
        with one_thread():
            layers: list[CacheSegment] = []
            for layer, segment in zip(self._kinds, self.layers, strict=True):
                if layer.kv_from is not None:
                    layers.append(layers[layer.kv_from])
                else:
                    layers.append(segment if layer.is_windowed else self._with_room(layer, segment, length))
            blocks = {index: self._with_blocks(memory, length) for index, memory in self.blocks.items()}
            # Assigned at the end, so that an interruption or a lack of memory leaves the cache unchanged.
            self.layers, self.blocks = layers, blocks
        self._fits = self.capacity

    def begin(self, new: int) -> None:
        """Allocate memory in every layer for a forward pass of `new` tokens, keeping the positions they may see."""
        self._states.begin()
        if self.length + new <= self._fits:
            return
        self._replace_segments()
        with one_thread():
            for index, layer in enumerate(self._kinds):
                # One layer at a time, so that only one layer is ever in memory twice.
                if layer.kv_from is None:
                    self.layers[index] = self._with_room(layer, self.layers[index], self.length + new)
                else:
                    self.layers[index] = self.layers[layer.kv_from]
            for index, memory in self.blocks.items():
                self.blocks[index] = self._with_blocks(memory, self.length + new)
        self._fits = self.capacity

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `keys` and `values` (B, K, T, D); return all that are visible, (B, K, S, D).

        The S positions begin at the first that the first new token sees and end at the last new token. The cache's
        length changes only with `advance`, once every layer has stored its part: a forward pass that is interrupted
        half-way leaves the cache unchanged.
        """
        all_keys, all_values, first = self.layers[layer]
        start = self.length - first
        end = start + keys.shape[2]
        packed = all_keys.dtype == torch.int8
        all_keys[:, :, start:end] = pack_rows(keys) if packed else keys
        all_values[:, :, start:end] = pack_rows(values) if packed else values
        return self.read(layer, self._kinds[layer].first_visible(self.length), first + end)

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer from position `start` to `end`, (B, K, S, D)."""
        keys, values, first = self.layers[layer]
        seen = slice(start - first, end - first)
        if keys.dtype != torch.int8:
            return keys[:, :, seen], values[:, :, seen]
        key_size, value_size = self._sizes[layer]
        return (
            unpack_rows(keys[:, :, seen], key_size, self._dtype),
            unpack_rows(values[:, :, seen], value_size, self._dtype),
        )

    def append_inputs(self, layer: int, values: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`; as with `append`, the cache's length changes only with `advance`."""
        return self.blocks[layer].append_inputs(self.length, values, gates)

    def append_entries(self, layer: int, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`."""
        return self.blocks[layer].append_entries(self.length, rows, keys)

    def state(self, layer: int) -> State | None:
        """What a recurrent layer remembers of the text before the new tokens; None: the text begins."""
        return self._states.now.states[layer]

    def store(self, layer: int, state: State) -> None:
        """Store what it remembers after the new tokens; like the length, it changes only with `advance`."""
        self._states.store(layer, state)

    def rope_length(self, new: int) -> int:
        """The length of the text, in tokens, that decides rotations when `new` tokens are read next."""
        return max(self.length + new, self.expected_length)

    def advance(self, tokens: int) -> None:
        """Add `tokens` new tokens to the length, after every layer has stored them."""
        self._states.advance(tokens)

    def mark(self, *, brief: bool = False) -> None:
        """Allow `truncate` to go back to the present length, where it could not do so without; see `needs_marks`.

        Later marks drop some earlier ones, see `TextStates`. A `brief` mark is replaced by the next brief one.
        """
        if self.needs_marks and self.length > 0:
            windows, blocks = {}, {}
            for index in self._marked:
                keys, values = self.layers[index].read(self._kinds[index].first_visible(self.length), self.length)
                windows[index] = keys.clone(), values.clone()
            for index, memory in self.blocks.items():
                blocks[index] = memory.tail(self.length)
            self._states.mark(windows, blocks, brief=brief)

    def reusable(self, length: int) -> int:
        """The greatest length, at most `length`, that `truncate` can go back to.

        That is `length` where every layer still holds the positions that the next token would see: always if no layer
        is windowed, and always within `rewind` tokens of the greatest length so far. If layers have states, or if the
        positions that are missing are those that marks hold, it is the greatest length with a mark. Otherwise it is 0.
        """
        length = min(length, self.length)
        if (length == self.length or not self._states.has_state) and self._holds(length):
            return length
        return next((at for at in self._states.lengths() if at <= length and self._holds(at, marked=True)), 0)

    def _holds(self, length: int, *, marked: bool = False) -> bool:
        """Whether every layer, or the mark of that length, holds what token number `length`, counted from 0, sees."""
        return all(
            segment.first <= layer.first_visible(length)
            for index, (layer, segment) in enumerate(zip(self._kinds, self.layers, strict=True))
            if not (marked and index in self._marked)
        ) and (marked or all(memory.holds(length) for memory in self.blocks.values()))

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens.

        Raises:
            ValueError: the cache is shorter, a layer has dropped keys that the next token sees, or there is no mark
                (see `reusable`).
        """
        if not 0 <= length <= self.length or length != self.reusable(length):
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        if length == 0:
            self._moves += 1
            self.layers = [segment._replace(first=0) for segment in self.layers]
            self.blocks = {index: memory.emptied() for index, memory in self.blocks.items()}
            self._fits = self.capacity
        elif not self._holds(length):
            self._restore_windows(length)
        self._states.go_back(length)

    def beginning(self, length: int) -> KVCache:
        """A new cache of the first `length` tokens; this one stays as it is.

        Raises:
            ValueError: it cannot be truncated to that length (see `truncate`).
        """
        other = copy.copy(self)
        other._states, other._pages, other._moves = self._states.copied(), (Pages(), Pages()), 0
        other.layers = []
        with one_thread(), torch.inference_mode():
            for layer, segment in zip(self._kinds, self.layers, strict=True):
                if layer.kv_from is None:
                    other.layers.append(other._copied(layer, segment, length))
                else:
                    other.layers.append(other.layers[layer.kv_from])
            other.blocks = {index: memory.copied(length, other._empty) for index, memory in self.blocks.items()}
        other._fits = other.capacity
        other.truncate(length)
        return other

    def _copied(self, layer: LayerConfig, segment: CacheSegment, length: int) -> CacheSegment:
        """A copy of a segment, for the first `length` tokens in a layer that keeps all."""
        size = segment.keys.shape[2] if layer.is_windowed else min(segment.keys.shape[2], length)
        keys, values = (
            self._empty((*each.shape[:2], size, each.shape[3]), each.dtype, windowed=layer.is_windowed)
            for each in segment[:2]
        )
        return CacheSegment(
            keys.copy_(segment.keys[:, :, :size]), values.copy_(segment.values[:, :, :size]), segment.first
        )

    def _restore_windows(self, length: int) -> None:
        """Put what the mark at `length` holds in front of its segments."""
        mark = self._states.at(length)
        assert mark is not None
        self._moves += 1
        # Memory from a pass in inference mode cannot be changed outside of it.
        with torch.inference_mode():
            for index, window in mark.windows.items():
                segment = self.layers[index]._replace(first=length - window[0].shape[2])
                segment.write(segment.first, *window)
                self.layers[index] = segment
            for index, tail in mark.blocks.items():
                self.blocks[index] = self.blocks[index].restored(length, tail)
        self._fits = self.capacity

    @contextmanager
    def rereading(self, position: int) -> Iterator[None]:
        """Inside the block the text ends before `position`, and one token can be computed there; restore it after.

        Position 0 is not allowed: truncating to nothing starts a new text.

        Raises:
            ValueError: the text is shorter, or cannot be truncated to `position` (see `reusable`).
        """
        if position == 0:
            raise ValueError("the first token cannot be read again")
        length = self.length
        places = [
            segment.read(position, position + 1)
            for segment in self._own
            if segment.first <= position < min(length, segment.end)
        ]
        if position < length:
            places += [place for memory in self.blocks.values() for place in memory.written_at(position)]
        held = [(keys, values, keys.clone(), values.clone()) for keys, values in places]
        states = self._states.contents()
        self.truncate(position)
        try:
            yield
        finally:
            self._states.restore(states)
            for keys, values, old_keys, old_values in held:
                keys.copy_(old_keys)
                values.copy_(old_values)

    def _replace_segments(self) -> None:
        self._moves += 1
        # A piece of memory is freed with the last tensor in it: what moves together gets new pieces, and windows, which
        # move more often, others than the rest.
        self._pages = Pages(), Pages()

    @property
    def _own(self) -> list[CacheSegment]:
        """The segments of the layers that cache keys and values of their own."""
        return [segment for layer, segment in zip(self._kinds, self.layers, strict=True) if layer.kv_from is None]

    def _with_room(self, layer: LayerConfig, segment: CacheSegment, end: int) -> CacheSegment:
        """`segment`, or if it ends before position `end` a larger one with a copy of the positions to keep."""
        if end <= segment.end:
            return segment
        first = 0
        if layer.is_windowed:
            first = max(segment.first, layer.first_visible(max(0, self.length - self._rewind)))
        # Double the size, up to the most that the layer ever needs.
        size = max(end - first, min(2 * segment.keys.shape[2], self._steady_size(layer)))
        return segment.moved(first, self.length, size, partial(self._empty, windowed=layer.is_windowed))

    def _with_blocks(self, memory: BlockCache, end: int) -> BlockCache:
        """`memory`, or one with room for compressed blocks of `end` tokens."""
        if end <= memory.fits:
            return memory
        steady = self._rewind + self._room
        return memory.with_room(self.length, end, self._rewind, steady, self._limit, self._empty)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype, *, windowed: bool = False) -> Tensor:
        # A short text's cache stays in the processor's caches, and would leave most of a huge page empty.
        large = shape[2] >= _LARGE and shape[2] * self._token_bytes >= _LARGE_BYTES
        if large and self._device.type == "cpu":
            return self._pages[windowed].empty(shape, dtype)
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _steady_size(self, layer: LayerConfig) -> int:
        """The most positions that a layer ever allocates."""
        visible = layer.window or layer.chunk
        return self._limit if visible is None else min(self._limit, visible + self._rewind + self._room)
