"""A rank other than 0: it repeats the passes of rank 0 with its part of the model."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

import torch

from llmcli.distributed.group import Group
from llmcli.errors import NotFiniteError
from llmcli.model.cache.kv_cache import KVCache
from llmcli.model.transformer import Transformer


class Follower:
    """Its public methods are the operations that rank 0 sends, by name."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._caches: dict[int, KVCache] = {}
        self._rereading: dict[int, AbstractContextManager[None]] = {}

    @torch.inference_mode()
    def forward(self, ids: list[list[int]], cache: int | None, expected: int, only_last: bool, brief: bool) -> None:
        """A pass; its logits are needed in rank 0 only."""
        kept = None if cache is None else self._caches[cache]
        if kept is not None:
            kept.expected_length = expected
        tokens = torch.tensor(ids, device=self._model.device)
        # Rank 0 has the same logits and reports it.
        with suppress(NotFiniteError):
            self._model(tokens, kept, only_last=only_last, brief=brief)

    def new_cache(self, number: int, batch: int, capacity: int, rewind: int, room: int) -> None:
        """An empty KV cache."""
        self._caches[number] = self._model.new_cache(batch=batch, capacity=capacity, rewind=rewind, room=room)

    def truncate(self, cache: int, length: int) -> None:
        """See `KVCache.truncate`."""
        self._caches[cache].truncate(length)

    def mark(self, cache: int, brief: bool) -> None:
        """See `KVCache.mark`."""
        self._caches[cache].mark(brief=brief)

    def beginning(self, cache: int, other: int, length: int) -> None:
        """See `KVCache.beginning`."""
        self._caches[other] = self._caches[cache].beginning(length)

    def begin_rereading(self, cache: int, position: int) -> None:
        """Enter `KVCache.rereading`."""
        self._rereading[cache] = block = self._caches[cache].rereading(position)
        block.__enter__()

    def end_rereading(self, cache: int) -> None:
        """Leave `KVCache.rereading`."""
        self._rereading.pop(cache).__exit__(None, None, None)

    def drop(self, cache: int) -> None:
        """Free a KV cache that rank 0 no longer uses."""
        del self._caches[cache]


def follow(model: Transformer, group: Group) -> None:
    """Repeat what rank 0 does until it ends.

    Raises:
        RankError: rank 0, or another rank, ended without saying so.
    """
    follower = Follower(model)
    while (message := group.receive())[0] != "end":
        name, arguments = message
        getattr(follower, name)(*arguments)
