"""Weights from files to a device: several threads read into a ring of buffers that the device fetches from by itself.

Memory that the system cannot move ("pinned") is read by a GPU directly and beside everything else; from other memory
each piece is first copied by the processor, which waits for it. A few buffers go round: while the device fetches from
some, others are being filled, so that neither the files nor the bus ever wait for each other, and main memory holds no
more than the ring.
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

# Large enough for a transfer to reach the full speed of the bus, small enough to be read while another is fetched.
BUFFER_BYTES = 8 << 20
_STREAMED = ("F32", "F16", "BF16")


class Fetching(Protocol):
    """How a device gets at what lies in main memory."""

    def buffer(self, nbytes: int) -> Tensor:
        """Main memory to fetch from, uint8."""

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """Fetch bytes and `put` them where they belong, both perhaps later; returns what waits for the former."""


class FromPinned:
    """A CUDA device fetches by itself, in the order of its stream; what is put is put in that order too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, nbytes: int) -> Tensor:
        """See `Fetching`."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """See `Fetching`."""
        there = source.to(self._device, non_blocking=True)
        # Whoever waits for it sleeps: readers that wait busily would take the processor from those that read.
        fetched = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        fetched.record(torch.cuda.current_stream(self._device))
        put(there)
        wait: Callable[[], object] = fetched.synchronize
        return wait


class FromAnywhere:
    """Any other device is given a copy, and that is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, nbytes: int) -> Tensor:
        """See `Fetching`."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        """See `Fetching`."""
        put(source.to(self._device))
        return _no_wait


def fetching_to(device: torch.device) -> Fetching:
    """The fastest way to a device."""
    return FromPinned(device) if device.type == "cuda" else FromAnywhere(device)


class Ring:
    """At most so many buffers, made as they are needed; to be used from any number of threads."""

    def __init__(self, fetching: Fetching, count: int, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.buffer_bytes = buffer_bytes
        self._fetching, self._unmade = fetching, count
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[tuple[Tensor, Callable[[], object]]] = queue.SimpleQueue()

    def send(self, nbytes: int, fill: Callable[[Tensor], object], put: Callable[[Tensor], object]) -> None:
        """Have `fill` write `nbytes` into a buffer, and what `put` does with them done on the device."""
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
            make = self._unmade > 0 and self._idle.empty()
            self._unmade -= make
        return (self._fetching.buffer(self.buffer_bytes), _no_wait) if make else self._idle.get()


def streamed_spans(source: ParameterSource, stored: Mapping[str, StoredTensor], ring: Ring) -> list[RowSpan]:
    """The rows a parameter is made of, where they can go through `ring` as they are; otherwise none."""
    spans = list(spans_of(source, stored))
    return spans if all(_streams(span, ring.buffer_bytes) for span in spans) else []


def stream(spans: list[RowSpan], reader: TensorReader, target: Tensor, ring: Ring) -> None:
    """Fill `target`, a matrix or a stack of them on the device and of any floating-point type, with those rows.

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
    """A matrix of plain numbers, of which a buffer holds enough rows to put them in order."""
    info = span.tensor
    if not isinstance(info, TensorInfo) or info.encoding not in _STREAMED or len(info.shape) != 2:
        return False
    return math.prod(info.shape) > 0 and info.nbytes // info.rows * _multiple(span) <= buffer_bytes


def _multiple(span: RowSpan) -> int:
    return 1 if span.pairs is None else span.pairs.head_dim


def _no_wait() -> None:
    """Nothing is being fetched."""
