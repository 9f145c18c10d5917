"""The numbers of a small tensor that is part of a model's configuration, read without torch where that is possible."""

from __future__ import annotations

import struct

from llmcli.checkpoint.files.weight_file import WeightFile, cut_short
from llmcli.checkpoint.tensors.tensor_info import TensorInfo

# One little-endian number: the type character of Python's `struct`.
_STRUCT_TYPES = {"F32": "f", "F16": "e"}
_INTEGERS = {"U8": "B", "I8": "b", "I32": "i", "I64": "q"}


def read_numbers(info: TensorInfo) -> tuple[float, ...]:
    """All values of a tensor, flattened, in float32 precision.

    The caller knows that there are few. Other encodings than float32 and float16 are decoded by torch.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
        UnsupportedModelError: the encoding is not one that can be read.
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

    The caller knows that there are few.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    values = f"<{info.values if count is None else count}{_INTEGERS[info.encoding]}"
    return struct.unpack(values, read_stored(info, struct.calcsize(values)))


def read_stored(info: TensorInfo, count: int | None = None) -> bytes:
    """The first `count` bytes of a tensor as they are stored; None: all of them.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    count = info.nbytes if count is None else count
    with WeightFile(info.path) as file:
        raw = file.read(info.offset, count)
    if len(raw) < count:
        raise cut_short(info.path, info.name)
    return raw
