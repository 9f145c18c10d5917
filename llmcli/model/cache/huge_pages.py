"""Memory in huge pages, where the system has them, for the data that every token reads: weights and KV cache.

A processor looks up the page of every address it reads, and its TLB caches some thousands of pages. Each decode step
reads the whole model, tens of thousands of 4 KiB pages, and waits for the look-ups; with 2 MiB pages reading is a third
faster (measured: 24 to 33 GB/s).
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_HUGE = 2 << 20
# Bytes mapped at a time, by default. Pages that are never written take addresses but no memory.
_PIECE = 32 << 20
# Bytes of a cache line.
_ALIGNMENT = 64


class Pages:
    """Allocator of tensors in large mapped pieces of memory; a piece is freed with the last tensor in it."""

    def __init__(self, piece: int = _PIECE) -> None:
        """`piece` bytes are mapped at a time."""
        self._size = piece
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Allocate an uninitialized tensor on the CPU.

        Raises:
            MemoryError: the system has no memory left.
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
        # Private, because shared memory does not get huge pages.
        memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Fails on kernels built without huge pages.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _HUGE
    return whole[start : start + size]
