"""Read small tensors that belong to the configuration, without importing torch if possible."""

from __future__ import annotations

import struct

from llmcli.checkpoint.files.weight_file import WeightFile, cut_short
from llmcli.checkpoint.tensors.tensor_info import TensorInfo

# Type characters of Python's `struct` for one little-endian number.
_STRUCT_TYPES = {"F32": "f", "F16": "e"}
_INTEGERS = {"U8": "B", "I8": "b", "I32": "i", "I64": "q"}


def read_numbers(info: TensorInfo) -> tuple[float, ...]:
    """All values of a tensor, flattened, in float32 precision.

    For small tensors only. Encodings other than F32 and F16 are decoded by torch.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
        UnsupportedModelError: an unsupported encoding.
    """
    kind = _STRUCT_TYPES.get(info.encoding)
    if kind is None:
        from llmcli.checkpoint.tensors.reader import TensorReader

        with TensorReader() as reader:
            return tuple(reader.read_rows(info, 0, info.rows).float().flatten().tolist())
    values = f"<{info.values}{kind}"
    return struct.unpack(values, read_stored(info, struct.calcsize(values)))


def read_integers(info: TensorInfo, count: int | None = None) -> tuple[int, ...]:
    """The first `count` values of a tensor of whole numbers (U8, I8, I32 or I64), flattened; None: all of them.

    For small tensors only.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    values = f"<{info.values if count is None else count}{_INTEGERS[info.encoding]}"
    return struct.unpack(values, read_stored(info, struct.calcsize(values)))


def read_stored(info: TensorInfo, count: int | None = None) -> bytes:
    """The first `count` stored bytes of a tensor; None: all of them.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    count = info.nbytes if count is None else count
    with WeightFile(info.path) as file:
        raw = file.read(info.offset, count)
    if len(raw) < count:
        raise cut_short(info.path, info.name)
    return raw
