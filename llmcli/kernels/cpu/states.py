"""States of recurrent layers for a call of the C kernel, which reads those in the cache and writes others."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.kernels.cpu import c_structs as c
from llmcli.model import KVCache
from llmcli.model.cache.state import State
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MixerConfig

# Earlier states of a layer that may be used again: one that is being left, and that of the text before.
_KEPT = 2


class NextStates:
    """The states of some texts after a call of the kernel. All are float32."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = {index: _shapes(layer.mixer) for index, layer in enumerate(config.layers) if layer.has_state}
        self._entered: list[tuple[KVCache, dict[int, State]]] = []
        # States of earlier calls, by layer. New memory for tens of megabytes would have to be zeroed for each token.
        self._earlier: dict[int, list[State]] = {index: [] for index in self._shapes}

    def enter(self, cache: KVCache, segments: ctypes.Array[c.Segment], first: int) -> None:
        """Set the addresses of a text's states in the segments of its layers, from number `first` on."""
        following: dict[int, State] = {}
        for index in self._shapes:
            state, following[index] = cache.state(index), self._unused(index)
            tail, memory = following[index]
            assert memory is not None
            with one_thread():
                before = _begin(state, tail, memory)
            segments[first + index] = c.Segment(tail.data_ptr(), memory.data_ptr(), 0, 0, before)
        if following:
            self._entered.append((cache, following))

    def leave(self, *, keep: bool) -> None:
        """Forget the states; with `keep`, store them as those after the call."""
        for cache, following in self._entered if keep else ():
            for index, state in following.items():
                cache.store(index, state)
        self._entered = []

    def _unused(self, layer: int) -> State:
        """Memory for a state of the layer: that of an earlier one to which nothing else refers, or new memory."""
        earlier = self._earlier[layer]
        for place in range(len(earlier)):
            if _is_unused(earlier, place):
                return earlier[place]
        tail, memory = self._shapes[layer]
        state = State(torch.empty(tail), torch.empty(memory))
        # The others are in caches or marks; those that will be unused soonest are the last ones.
        self._earlier[layer] = [*earlier[-_KEPT:], state]
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


def _is_unused(states: list[State], place: int) -> bool:
    """Whether only `states` refers to one of them, and only this one to its tensors."""
    state = states[place]
    # The argument of `getrefcount` counts as one reference, and so does the variable.
    return sys.getrefcount(state) == 3 and all(sys.getrefcount(part) == 3 for part in state)


def _shapes(mixer: MixerConfig | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a state's tail and sum, for one text."""
    assert isinstance(mixer, DeltaConfig | Mamba2Config)
    rows = mixer.conv_width - 1
    tail = (1, rows, mixer.tail_values // rows)
    if isinstance(mixer, DeltaConfig):
        return tail, (1, mixer.value_heads, mixer.key_dim, mixer.value_dim)
    return tail, (1, mixer.heads, mixer.head_dim, mixer.state)
