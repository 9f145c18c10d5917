"""Values that are read in one piece but needed in chunks: each thread keeps those that it read last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader


class _LastRead(threading.local):
    """The tensors that each thread read last; one cache for all threads would be evicted all the time."""

    def __init__(self) -> None:
        self.last: WeakKeyDictionary[RowReader, tuple[object, tuple[Tensor, ...]]] = WeakKeyDictionary()


_KEPT = _LastRead()


def last_read(reader: RowReader, key: object, read: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `read` returns, cached until the thread asks the reader for values with another `key`."""
    last = _KEPT.last.get(reader)
    if last is None or last[0] != key:
        _KEPT.last.pop(reader, None)
        last = key, read()
        _KEPT.last[reader] = last
    return last[1]
