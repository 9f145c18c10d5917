"""Measure the memory bandwidth, the upper bound of decoding speed.

On a CPU every thread reads a separate buffer, far larger than the caches and in pages of the same kind as weights. The
faster of two methods counts: the C library's `memchr`, which reads every byte with the widest registers, and a sum. On
a GPU one buffer is copied into another, and bytes read and written both count. The result is the best of several tries,
as disturbances only make a try slower.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from llmcli.model.cache.huge_pages import Pages

_TOTAL_BYTES = 512 << 20
_TRIES = 8


def bandwidth(device: torch.device, threads: int, *, total_bytes: int = _TOTAL_BYTES) -> float:
    """Bandwidth of a device's memory in bytes per second; each try reads or copies `total_bytes`."""
    return _read(threads, total_bytes) if device.type == "cpu" else _copied(device, total_bytes)


def _read(threads: int, total_bytes: int) -> float:
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        size = -(-total_bytes // threads // 8) * 8
        # Written once: memory that was never written maps to one page of zeros, which stays in the cache.
        buffers = list(pool.map(lambda _: Pages().empty((size,), torch.uint8).fill_(1), range(threads)))

        def seconds(read: Callable[[Tensor], object]) -> float:
            started = time.perf_counter()
            for _ in pool.map(read, buffers):
                pass
            return time.perf_counter() - started

        ways: list[Callable[[Tensor], object]] = [lambda buffer: buffer.view(torch.int64).sum()]
        search = _memchr()
        if search is not None:
            ways.append(lambda buffer: search(buffer.data_ptr(), 0, size))
        return size * threads / min(seconds(way) for way in ways for _ in range(_TRIES))


def _memchr() -> Callable[[int, int, int], object] | None:
    """The C library's search for a byte, called without holding the interpreter's lock; None if it is missing."""
    try:
        search = ctypes.CDLL(None).memchr
    except (OSError, TypeError, AttributeError):
        return None
    search.restype = ctypes.c_void_p
    search.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    found: Callable[[int, int, int], object] = search
    return found


def _copied(device: torch.device, total_bytes: int) -> float:
    source = torch.ones(total_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def seconds() -> float:
        torch.accelerator.synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        torch.accelerator.synchronize(device)
        return time.perf_counter() - started

    return 2 * total_bytes / min(seconds() for _ in range(_TRIES))
