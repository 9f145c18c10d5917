"""The model of rank 0: each pass, and each change of a KV cache, is repeated by the other ranks.

Everything above it, from prefix reuse to speculation, works as with a model in one process.
"""

from __future__ import annotations

import itertools
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor

from llmcli.distributed.group import Group
from llmcli.distributed.launch import Ranks
from llmcli.errors import UnsupportedModelError
from llmcli.model.cache.kv_cache import REWIND, ROOM, KVCache, LayerCache
from llmcli.model.config import ModelConfig
from llmcli.model.parallel.stages import PipelineStage
from llmcli.model.transformer import Transformer


class Mirror:
    """Sends operations to the other ranks; they have a KV cache for each of those of rank 0, under a number."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._numbers = itertools.count()
        # Numbers of caches that are no longer used here: appended by finalizers, which may run at any moment.
        self._dropped: list[int] = []
        self._lock = threading.RLock()
        self._silent = False

    def tell(self, name: str, *arguments: Any) -> None:
        """Send an operation of `follower.Follower`."""
        if self._silent:
            return
        with self._lock:
            while self._dropped:
                self._group.send("drop", [self._dropped.pop()])
            self._group.send(name, arguments)

    def number(self, cache: KVCache) -> int:
        """A number for a new cache; the others drop theirs when it is no longer used."""
        number = next(self._numbers)
        weakref.finalize(cache, self._dropped.append, number)
        return number

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Inside the block nothing is sent: an operation that was sent as a whole consists of others."""
        with self._lock:
            self._silent = True
            try:
                yield
            finally:
                self._silent = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A pass: no other thread sends anything inside the block, and Ctrl-C waits for its end.

        Ranks that left a pass at different places would wait for each other.
        """
        with self._lock, _signals_afterwards():
            yield


class MirroredCache(KVCache):
    """A KV cache whose changes the other ranks repeat."""

    def __init__(self, config: ModelConfig, mirror: Mirror, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._mirror, self.number = mirror, mirror.number(self)

    def truncate(self, length: int) -> None:
        """See `KVCache`."""
        changed = length != self.length
        super().truncate(length)
        if changed:
            self._mirror.tell("truncate", self.number, length)

    def mark(self, *, brief: bool = False) -> None:
        """See `KVCache`."""
        super().mark(brief=brief)
        if self.needs_marks:
            self._mirror.tell("mark", self.number, brief)

    def beginning(self, length: int) -> KVCache:
        """See `KVCache`."""
        with self._mirror.silent():
            other = super().beginning(length)
        assert isinstance(other, MirroredCache)
        other.number = self._mirror.number(other)
        self._mirror.tell("beginning", self.number, other.number, length)
        return other

    @contextmanager
    def rereading(self, position: int) -> Iterator[None]:
        """See `KVCache`."""
        self._mirror.tell("begin_rereading", self.number, position)
        try:
            with self._mirror.silent():
                block = super().rereading(position)
                block.__enter__()
            try:
                yield
            finally:
                block.__exit__(None, None, None)
        finally:
            self._mirror.tell("end_rereading", self.number)


class LeadingTransformer(Transformer):
    """A part of a model, in rank 0."""

    mirror: Mirror
    ranks: Ranks

    def new_cache(self, *, batch: int = 1, capacity: int = 256, rewind: int = REWIND, room: int = ROOM) -> KVCache:
        """An empty KV cache, here and in the other ranks."""
        settings = {"batch": batch, "capacity": capacity, "rewind": rewind, "room": room}
        cache = MirroredCache(self.config, self.mirror, dtype=self.dtype, device=self.device, **settings)
        self.mirror.tell("new_cache", cache.number, batch, capacity, rewind, room)
        return cache

    def forward(
        self, ids: Tensor, cache: KVCache | None = None, *, only_last: bool = False, brief: bool = False
    ) -> Tensor:
        """See `Transformer`; the other ranks make the same pass."""
        assert cache is None or isinstance(cache, MirroredCache)
        number, expected = (None, 0) if cache is None else (cache.number, cache.expected_length)
        with self.mirror.passing():
            self.mirror.tell("forward", ids.tolist(), number, expected, only_last, brief)
            return super().forward(ids, cache, only_last=only_last, brief=brief)

    def run_from_layer(
        self, x: Tensor, first: int, stop: int | None = None, *, start: int = 0, cache: LayerCache | None = None
    ) -> Tensor:
        """Not possible.

        Raises:
            UnsupportedModelError: always.
        """
        raise UnsupportedModelError("A model that is split over ranks cannot be run from a block on.")

    def unembed(self, x: Tensor) -> Tensor:
        """Not possible.

        Raises:
            UnsupportedModelError: always.
        """
        raise UnsupportedModelError("A model that is split over ranks cannot read a residual stream.")


class LeadingStage(PipelineStage, LeadingTransformer):
    """The first stage of a pipeline."""


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Inside the block, Ctrl-C is only noted; its handler is called after the block. Of the main thread only."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    noted: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _number, frame: noted.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            handler(signal.SIGINT, noted[0])
