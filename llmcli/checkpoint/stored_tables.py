"""Tables of embeddings that stay in the bits of their file, in memory or there: which, and reading them."""

from __future__ import annotations

import re
import weakref
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmcli.checkpoint.files.weight_file import WeightFile, cut_short
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.parameter_sources import Joined, Source
from llmcli.checkpoint.tensors.reader import memory_of
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.model.quantized.stored_embedding import StoredFormat

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.tensors.reader import TensorReader
    from llmcli.model.quantized.stored_embedding import StoredEmbedding

# Read by one row for each token, and in small models larger than all other weights together.
_IN_MEMORY = ("per_layer_embeddings.embed_tokens.weight",)
# Read by few rows for each token, and with 100 GB larger than most memories.
_IN_FILE = re.compile(r"layers\.\d+\.ngram\.table\.weight")
# Bytes read at a time, so that an interruption is noticed soon.
_BYTES_AT_ONCE = 1 << 26


def is_in_file(parameter: str) -> bool:
    """Whether a parameter is a table whose rows are read from the file, if they are stored as a table."""
    return _IN_FILE.fullmatch(parameter) is not None


def stored_tables(checkpoint: Checkpoint) -> dict[str, StoredFormat]:
    """The tables of a checkpoint that can stay as they are stored, by parameter name."""
    found = {}
    for parameter in checkpoint.sources:
        in_file = is_in_file(parameter)
        if (in_file or parameter in _IN_MEMORY) and (tensors := _stored_tensors(checkpoint, parameter)):
            encoding = ENCODINGS[tensors[0].encoding]
            found[parameter] = StoredFormat(
                tensors[0].encoding, encoding.block_size, encoding.block_bytes, in_file=in_file
            )
    return found


class TableRows:
    """Reads rows of a table from its files, which stay open as long as this object lives."""

    def __init__(self, checkpoint: Checkpoint, parameter: str) -> None:
        """Raises `CheckpointError` if a file cannot be opened."""
        self._tensors = _stored_tensors(checkpoint, parameter)
        self._ends = list(accumulate(tensor.rows for tensor in self._tensors))
        self._files: dict[Path, WeightFile] = {}
        # Before the first file: the others may not open.
        weakref.finalize(self, _close_all, self._files)
        for path in dict.fromkeys(tensor.path for tensor in self._tensors):
            self._files[path] = WeightFile(path)

    def __call__(self, rows: Sequence[int], target: Tensor) -> None:
        """Fill `target`, uint8 (rows, bytes of a row) and contiguous on the CPU.

        Raises:
            CheckpointError: a file has become shorter, or cannot be read.
        """
        memory, size = memory_of(target), target.shape[1]
        for place, row in enumerate(rows):
            number = bisect_right(self._ends, row)
            tensor = self._tensors[number]
            offset = tensor.offset + (row - self._ends[number] + tensor.rows) * size
            if self._files[tensor.path].read_into(memory[place * size : (place + 1) * size], offset) < size:
                raise cut_short(tensor.path, tensor.name)


def _close_all(files: Mapping[Path, WeightFile]) -> None:
    for file in files.values():
        file.close()


def read_table(
    checkpoint: Checkpoint, parameter: str, reader: TensorReader, to: StoredEmbedding, stopped: Callable[[], bool]
) -> None:
    """Fill `to` with the bytes of a table; stops early if `stopped` says so.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    step = max(1, _BYTES_AT_ONCE // to.stored.shape[1])
    filled = 0
    for tensor in _stored_tensors(checkpoint, parameter):
        for start in range(0, tensor.rows, step):
            if stopped():
                return
            stop = min(start + step, tensor.rows)
            rows = to.stored[filled + start : filled + stop]
            read = rows if rows.device.type == "cpu" else torch.empty(rows.shape, dtype=torch.uint8)
            reader.read_bytes(tensor, start, stop, read)
            if read is not rows:
                rows.copy_(read)
        filled += tensor.rows


def _stored_tensors(checkpoint: Checkpoint, parameter: str) -> list[TensorInfo]:
    """The stored tensors that are the whole table, one below the other.

    Empty if the table is read in another way, if its rows are not whole blocks, or if the encodings differ.
    """
    source = checkpoint.sources[parameter]
    parts = source.parts if isinstance(source, Joined) else (source,)
    tensors = []
    for part in parts:
        if not isinstance(part, Source) or part.ranges is not None or part.pairs is not None:
            return []
        tensor = checkpoint.tensors[part.name]
        if not isinstance(tensor, TensorInfo) or len(tensor.shape) != 2 or tensor.encoding not in ENCODINGS:
            return []
        tensors.append(tensor)
    encoding = ENCODINGS[tensors[0].encoding]
    whole = all(tensor.row_length % encoding.block_size == 0 for tensor in tensors)
    alike = len({tensor.encoding for tensor in tensors}) == 1
    return tensors if whole and alike and encoding.is_floating_point else []
