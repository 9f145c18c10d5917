"""The numbers of a small tensor that is part of a model's configuration, read without torch where that is possible."""

from __future__ import annotations

import struct

from llmcli.checkpoint.tensor_info import TensorInfo
from llmcli.checkpoint.weight_files import WeightFile, cut_short

# One little-endian number: the type character of Python's `struct`.
_STRUCT_TYPES = {"F32": "f", "F16": "e"}


def read_numbers(info: TensorInfo) -> tuple[float, ...]:
    """All values of a tensor, flattened, in float32 precision.

    The caller knows that there are few. Other encodings than float32 and float16 are decoded by torch.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
        UnsupportedModelError: the encoding is not one that can be read.
    """
    kind = _STRUCT_TYPES.get(info.encoding)
    if kind is None:
        from llmcli.checkpoint.tensors import TensorReader

        with TensorReader() as reader:
            return tuple(reader.read_rows(info, 0, info.rows).float().flatten().tolist())
    values = f"<{info.values}{kind}"
    with WeightFile(info.path) as file:
        raw = file.read(info.offset, struct.calcsize(values))
    if len(raw) < struct.calcsize(values):
        raise cut_short(info.path, info.name)
    return struct.unpack(values, raw)
