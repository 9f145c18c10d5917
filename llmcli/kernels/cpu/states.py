"""States of recurrent layers for a call of the C kernel, which reads those in the cache and writes others."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.kernels.cpu import c_structs as c
from llmcli.model import KVCache
from llmcli.model.cache.state import State
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, MixerConfig, RglruConfig


class NextStates:
    """The states of some texts after a call of the kernel. All are float32."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = {
            index: _shapes(layer.beside or layer.mixer) for index, layer in enumerate(config.layers) if layer.has_state
        }
        # States of earlier calls, by layer. New memory for tens of megabytes would have to be zeroed for each token.
        self._earlier: dict[int, list[State]] = {index: [] for index in self._shapes}
        self._most_texts = 1

    @contextmanager
    def written(self, caches: Sequence[KVCache], segments: ctypes.Array[c.Segment]) -> Iterator[None]:
        """Let the call inside the block read and write the states of texts by the addresses in `segments`.

        These have one segment for each layer of the first text, then of the next one. The states after the call are
        stored in `caches` if it succeeds.
        """
        self._most_texts = max(self._most_texts, len(caches))
        following = [self._next(cache, segments, text * len(cache.layers)) for text, cache in enumerate(caches)]
        yield
        for cache, states in zip(caches, following, strict=True):
            for index, state in states.items():
                cache.store(index, state)

    def _next(self, cache: KVCache, segments: ctypes.Array[c.Segment], first: int) -> dict[int, State]:
        """The states after the call, whose addresses are set in the segments of a text from number `first` on."""
        following: dict[int, State] = {}
        for index in self._shapes:
            state, following[index] = cache.state(index), self._unused(index)
            tail, memory, _ = following[index]
            assert memory is not None
            with one_thread():
                before = _begin(state, tail, memory)
            segment = segments[first + index]
            segment.tail, segment.memory, segment.before = tail.data_ptr(), memory.data_ptr(), before
        return following

    def _unused(self, layer: int) -> State:
        """Memory for a state of the layer: that of an earlier one to which nothing else refers, or new memory."""
        earlier = self._earlier[layer]
        for place in range(len(earlier)):
            if _references(earlier, place) == _UNSHARED:
                return earlier[place]
        tail, memory = self._shapes[layer]
        state = State(torch.empty(tail), torch.empty(memory))
        # The others are in caches or marks. The last ones will be unused soonest: those before and after the last call.
        self._earlier[layer] = [*earlier[-2 * self._most_texts :], state]
        return state


def _begin(state: State | None, tail: Tensor, memory: Tensor) -> int | None:
    """Prepare `tail` and `memory` for the tokens after `state`; the address of the memory before them, if it is not in
    `memory`. The cache keeps it during the call.
    """
    if state is None:
        tail.zero_()
        memory.zero_()
        return None
    assert state.sum is not None
    tail.copy_(state.tail)
    if state.sum.is_contiguous():
        return state.sum.data_ptr()
    memory.copy_(state.sum)
    return None


def _references(states: list[State], place: int) -> list[int]:
    """The number of references to one of `states` and to each of its tensors, those of this function included."""
    state = states[place]
    return [sys.getrefcount(state), *(sys.getrefcount(part) for part in state if part is not None)]


# Where only a list refers to a state, and only this to its tensors. Versions of Python count differently.
_UNSHARED = _references([State(torch.empty(0), torch.empty(0))], 0)


def _shapes(mixer: MixerConfig | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a state's tail and sum, for one text."""
    assert isinstance(mixer, DeltaConfig | Mamba2Config | MambaConfig | RglruConfig)
    rows = mixer.conv_width - 1
    tail = (1, rows, mixer.tail_values // rows)
    if isinstance(mixer, DeltaConfig):
        return tail, (1, mixer.value_heads, mixer.key_dim, mixer.value_dim)
    if isinstance(mixer, Mamba2Config):
        return tail, (1, mixer.heads, mixer.head_dim, mixer.state)
    return tail, (1, mixer.width, mixer.state if isinstance(mixer, MambaConfig) else 1)
