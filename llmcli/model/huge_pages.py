"""Memory for what every token reads: weights and cache, in huge pages where the system has them.

A processor looks up the page of every address it reads, and remembers some thousands of pages. A model that is read
from end to end for each token goes through tens of thousands of 4 KiB pages, and waits for the look-ups; 2 MiB pages
make reading a third faster (measured: 24 to 33 GB/s).
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_HUGE = 2 << 20
# Taken from the system at a time, unless said. What is never touched takes no memory, only addresses.
_PIECE = 32 << 20
# A line of the processor's cache.
_ALIGNMENT = 64


class Pages:
    """Hands out tensors from large pieces of memory; a piece goes back when the last tensor in it does."""

    def __init__(self, piece: int = _PIECE) -> None:
        """`piece` bytes are taken from the system at a time."""
        self._size = piece
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU, not filled with anything.

        Raises:
            MemoryError: there is no memory to be had.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        if nbytes > len(self._free):
            self._free = _piece(max(nbytes, self._size))
        taken, self._free = self._free[:nbytes], self._free[-(-nbytes // _ALIGNMENT) * _ALIGNMENT :]
        return taken.view(dtype).view(tuple(shape))


def _piece(nbytes: int) -> Tensor:
    size = -(-nbytes // _HUGE) * _HUGE
    try:
        # Private, because shared memory is not given huge pages.
        memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Refused where the system is built without them.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _HUGE
    return whole[start : start + size]
