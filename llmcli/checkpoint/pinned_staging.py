"""Copy weights from files to a device: threads read into a ring of buffers that the device copies from.

A GPU reads pinned memory (which the system cannot move) by itself and asynchronously; from other memory the CPU first
copies each piece and waits. With a few buffers in a ring, some are filled while others are copied, so neither the files
nor the bus wait, and main memory holds no more than the ring.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.parameter_sources import ParameterSource
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.row_spans import RowSpan, spans_of
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo

# Large enough to reach the full speed of the bus, small enough that one is read while another is transferred.
BUFFER_BYTES = 8 << 20
_STREAMED = ("F32", "F16", "BF16")


class DeviceCopy(Protocol):
    """How a device copies bytes from main memory."""

    def buffer(self, nbytes: int) -> Tensor:
        """A buffer in main memory to fetch from, uint8."""

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """Copy `source` to the device and call `put` on the copy; returns a function that waits for the copy.

        Both may happen later.
        """


class PinnedCopy:
    """A CUDA device copies pinned memory asynchronously, in stream order; `put` runs in stream order too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, nbytes: int) -> Tensor:
        """See `DeviceCopy`."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """See `DeviceCopy`."""
        there = source.to(self._device, non_blocking=True)
        # A blocking event lets the waiting thread sleep: busy waits would take CPU time from threads that read.
        fetched = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        fetched.record(torch.cuda.current_stream(self._device))
        put(there)
        wait: Callable[[], object] = fetched.synchronize
        return wait


class PlainCopy:
    """Other devices copy synchronously."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, nbytes: int) -> Tensor:
        """See `DeviceCopy`."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """See `DeviceCopy`."""
        put(source.to(self._device))
        return _no_wait


def device_copy(device: torch.device) -> DeviceCopy:
    """The fastest way to copy to `device`."""
    return PinnedCopy(device) if device.type == "cuda" else PlainCopy(device)


class Ring:
    """A pool of at most `count` buffers, allocated on demand; thread-safe."""

    def __init__(self, fetching: DeviceCopy, count: int, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.buffer_bytes = buffer_bytes
        self._fetching, self._unallocated = fetching, count
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[tuple[Tensor, Callable[[], object]]] = queue.SimpleQueue()

    def send(self, nbytes: int, fill: Callable[[Tensor], object], put: Callable[[Tensor], object]) -> None:
        """Let `fill` write `nbytes` into a buffer, then call `put` with its copy on the device."""
        buffer, wait = self._next()
        try:
            wait()
            wait = _no_wait
            part = buffer[:nbytes]
            fill(part)
            wait = self._fetching.fetch(part, put)
        finally:
            self._idle.put((buffer, wait))

    def _next(self) -> tuple[Tensor, Callable[[], object]]:
        with self._lock:
            make = self._unallocated > 0 and self._idle.empty()
            self._unallocated -= make
        return (self._fetching.buffer(self.buffer_bytes), _no_wait) if make else self._idle.get()


def streamed_spans(source: ParameterSource, stored: Mapping[str, StoredTensor], ring: Ring) -> list[RowSpan]:
    """The stored rows a parameter is made of if all can go through `ring` as they are; otherwise an empty list."""
    spans = list(spans_of(source, stored))
    return spans if all(_streams(span, ring.buffer_bytes) for span in spans) else []


def stream(spans: list[RowSpan], reader: TensorReader, target: Tensor, ring: Ring) -> None:
    """Fill `target`, a matrix or a stack of matrices on the device, from `spans`; converts to the dtype of `target`.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    matrices = target.view(-1, *target.shape[-2:])
    filled = [0] * len(matrices)
    for span in spans:
        info = span.tensor
        assert isinstance(info, TensorInfo)
        row_bytes = info.nbytes // info.rows
        step = ring.buffer_bytes // (row_bytes * _multiple(span)) * _multiple(span)
        for start in range(span.start, span.stop, step):
            stop = min(start + step, span.stop)
            first = filled[span.index]
            ring.send(
                (stop - start) * row_bytes,
                _filling(reader, info, start, stop),
                _putting(span, matrices[span.index, first : first + stop - start]),
            )
            filled[span.index] += stop - start


def _filling(reader: TensorReader, info: TensorInfo, start: int, stop: int) -> Callable[[Tensor], None]:
    return lambda buffer: reader.read_bytes(info, start, stop, buffer)


def _putting(span: RowSpan, rows: Tensor) -> Callable[[Tensor], object]:
    dtype = ENCODINGS[span.tensor.encoding].dtype
    assert dtype is not None

    def put(raw: Tensor) -> None:
        values = raw.view(dtype).view(rows.shape)
        rows.copy_(values if span.pairs is None else span.pairs.reordered(values))

    return put


def _streams(span: RowSpan, buffer_bytes: int) -> bool:
    """Whether it is a matrix of plain floats, and a buffer holds enough of its rows to reorder them."""
    info = span.tensor
    if not isinstance(info, TensorInfo) or info.encoding not in _STREAMED or len(info.shape) != 2:
        return False
    return math.prod(info.shape) > 0 and info.nbytes // info.rows * _multiple(span) <= buffer_bytes


def _multiple(span: RowSpan) -> int:
    return 1 if span.pairs is None else span.pairs.head_dim


def _no_wait() -> None:
    """The wait function of a buffer that is not being copied."""
