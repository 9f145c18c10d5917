"""`TensorReader`: read tensors from weight files in chunks; memory is the result plus one chunk."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from llmcli.checkpoint.files.weight_file import WeightFile, cut_short, shown
from llmcli.checkpoint.tensors.encodings import ENCODINGS, Encoding
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

# 1 MiB in float32: the passes of a block decoder stay in a core's own cache.
_DECODED_AT_ONCE = 1 << 18
# 16 MiB in float32.
_ARRANGED_AT_ONCE = 4 << 20


class TensorReader:
    """Reads tensors from any number of files, each opened once; thread-safe. A context manager."""

    def __init__(self, *, decoded_at_once: int = _DECODED_AT_ONCE, arranged_at_once: int = _ARRANGED_AT_ONCE) -> None:
        """`decoded_at_once` is the number of values in a chunk."""
        self._decoded_at_once = decoded_at_once
        self.arranged_at_once = arranged_at_once
        """The number of values in a chunk whose rows are reordered."""
        self._files: dict[Path, WeightFile] = {}
        self._lock = threading.Lock()
        self._kept = threading.local()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, (rows, row length), or (elements,) of a one-dimensional tensor.

        Plain numbers keep their dtype; block formats are decoded to float32.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        if not 0 <= start <= stop <= info.rows:
            raise ValueError(f"{info.name} has {info.rows} rows; {start} to {stop} were asked for")
        length = info.row_length
        shape = (stop - start,) if len(info.shape) == 1 else (stop - start, length)
        return self._decoded(info, start * length, stop * length).view(shape)

    def read_blocks(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a matrix in a block format, undecoded: uint8 (rows, blocks, block bytes).

        The memory is reused by this thread's next call, to avoid fragmenting the heap.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        if not 0 <= start <= stop <= info.rows or len(info.shape) != 2:
            raise ValueError(f"{info.name} has {info.rows} rows; {start} to {stop} were asked for")
        encoding = _encoding(info)
        shape = (stop - start, info.shape[1] // encoding.block_size, encoding.block_bytes)
        kept: Tensor | None = getattr(self._kept, "memory", None)
        if kept is None or kept.numel() < math.prod(shape):
            self._kept.memory = kept = torch.empty(math.prod(shape), dtype=torch.uint8)
        stored = kept[: math.prod(shape)].view(shape)
        self._fill(info, info.offset + start * encoding.nbytes(info.shape[1]), stored)
        return stored

    def read_bytes(self, info: TensorInfo, start: int, stop: int, target: Tensor) -> None:
        """Read the stored bytes of rows `start` to `stop` of a matrix into `target`, contiguous and on the CPU.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        size = info.nbytes // info.rows
        if not 0 <= start <= stop <= info.rows or target.nbytes != (stop - start) * size:
            raise ValueError(f"{info.name} has {info.rows} rows; {start} to {stop} were asked for")
        self._fill(info, info.offset + start * size, target)

    def read_into(
        self,
        info: TensorInfo,
        target: Tensor,
        *,
        rows: Callable[[Tensor], Tensor] | None = None,
        chunk_rows_multiple: int = 1,
    ) -> None:
        """Read a tensor into `target`: contiguous, on the CPU, of the same shape, with any float dtype.

        `rows` is applied to each chunk of decoded rows, (a multiple of `chunk_rows_multiple`, row length), and keeps
        its shape. Beyond `target`, memory for one chunk is used; none if no conversion is needed.

        Raises:
            CheckpointError: the file ends too early, cannot be read, or does not hold floats.
        """
        if target.shape != info.shape or not target.is_contiguous() or target.device.type != "cpu":
            raise ValueError(f"{info.name} {info.shape} cannot be read into {tuple(target.shape)} on {target.device}")
        encoding = _encoding(info)
        if not encoding.is_floating_point:
            raise CheckpointError(
                f"{info.path}: tensor {shown(info.name)} holds {encoding.name} numbers; weights must be floating-point."
            )
        if info.rows % chunk_rows_multiple:
            raise CheckpointError(
                f"{info.path}: tensor {shown(info.name)} has {info.rows} rows, not a multiple of {chunk_rows_multiple}."
            )
        if info.values == 0:
            return
        if rows is None and encoding.dtype == target.dtype:
            self._fill(info, info.offset, target)
            return
        flat = target.view(-1)
        unit = encoding.block_size if rows is None else info.row_length * chunk_rows_multiple
        for start, stop in _ranges(info.values, unit, self._decoded_at_once):
            values = self._decoded(info, start, stop)
            if rows is not None:
                values = rows(values.view(-1, info.row_length)).reshape(-1)
            flat[start:stop].copy_(values)

    def _decoded(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of the flattened tensor, decoded from the blocks that contain them."""
        encoding = _encoding(info)
        first, last = start // encoding.block_size, -(-stop // encoding.block_size)
        stored = torch.empty((last - first, encoding.block_bytes), dtype=torch.uint8)
        self._fill(info, info.offset + first * encoding.block_bytes, stored)
        skipped = start - first * encoding.block_size
        return encoding.decode(stored).view(-1)[skipped : skipped + stop - start]

    def _fill(self, info: TensorInfo, offset: int, target: Tensor) -> None:
        """Read bytes from `offset` into the memory of a contiguous tensor."""
        size = target.numel() * target.element_size()
        if size == 0:
            return
        if self._file(info.path).read_into(memory_of(target), offset) < size:
            raise cut_short(info.path, info.name)

    def _file(self, path: Path) -> WeightFile:
        with self._lock:
            if path not in self._files:
                self._files[path] = WeightFile(path)
            return self._files[path]


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, valid while it lives; torch itself needs NumPy for this."""
    size = tensor.nbytes
    if size == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_uint8 * size).from_address(tensor.data_ptr())).cast("B")


def _encoding(info: TensorInfo) -> Encoding:
    if info.encoding not in ENCODINGS:
        raise UnsupportedModelError(
            f"{info.path}: tensor {shown(info.name)} is stored as {info.encoding}, which is not supported."
        )
    return ENCODINGS[info.encoding]


def _ranges(values: int, unit: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of about `at_once` values that cover `values`; all but the last are multiples of `unit`."""
    step = max(1, at_once // unit) * unit
    for start in range(0, values, step):
        yield start, min(values, start + step)
