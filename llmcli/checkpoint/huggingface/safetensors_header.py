"""Read the headers of safetensors files.

Format: a little-endian 64-bit header length, a JSON object, and the tensors' bytes without gaps. Files that the
`safetensors` library refuses are refused here too, with a message that says which file, which tensor and what to do.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NoReturn

from llmcli.checkpoint.files.weight_file import WeightFile, refuse_foreign, shown
from llmcli.checkpoint.tensors.dtypes import NUMBERS, UNSUPPORTED_SAFETENSORS_TYPES
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

# The library's limit; the largest real headers have a few MB.
_LARGEST_HEADER = 100_000_000
# Limits on JSON that would expand to gigabytes of objects; a million tensors stay below them.
_MOST_CONTAINERS, _MOST_COMMAS = 3_000_000, 8_000_000
_DEEPEST = 100
_LARGEST_SIZE = (1 << 63) - 1


class _DuplicateKeyError(ValueError):
    """A JSON object has the same key twice."""


def read_safetensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file, by name.

    Raises:
        CheckpointError: the file cannot be read or is not a valid safetensors file.
        UnsupportedModelError: the file is valid, but a tensor has an unsupported number type.
    """
    with WeightFile(path) as file:
        start = file.read(0, 64)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or not 2 <= length <= _LARGEST_HEADER:
            refuse_foreign(path, start)
            raise CheckpointError(
                f"{path} is not a safetensors file: its header would have {length} bytes. Download it again."
            )
        if 8 + length > file.size:
            raise CheckpointError(
                f"{path} has {file.size} bytes, its header alone {length}: the file was cut short. Download it again."
            )
        header = _parse_header(path, file.read(8, length))
        tensors = [_tensor_info(path, name, entry, 8 + length) for name, entry in header.items()]
        _check_layout(path, tensors, 8 + length, file.size)
    return {info.name: info for info in tensors}


def _parse_header(path: Path, raw: bytes) -> dict[str, object]:
    """The JSON object of the header without `__metadata__`: entries by tensor name."""
    if raw.count(b"{") + raw.count(b"[") > _MOST_CONTAINERS or raw.count(b",") > _MOST_COMMAS:
        _refuse(path, "its header describes more than a million tensors")
    try:
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_int=_whole_number, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        _refuse(path, "its header is not UTF-8 text")
    except _DuplicateKeyError as error:
        _refuse(path, f"its header names {error} twice")
    except (ValueError, RecursionError):
        _refuse(path, "its header is not valid JSON")
    if not isinstance(header, dict):
        _refuse(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) and _is_text(value) for value in metadata.values())
    ):
        _refuse(path, "its __metadata__ is not an object of strings")
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _DuplicateKeyError(shown(key))
    if not all(map(_is_text, found)):
        raise ValueError("half a surrogate pair")
    return found


def _is_text(value: str) -> bool:
    """Whether it can be encoded as UTF-8: JSON escapes allow lone surrogates, which cannot."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _whole_number(digits: str) -> int:
    # "-0" is not an unsigned number either, but int() would accept it.
    return int(digits) if len(digits) <= 20 and not digits.startswith("-") else -1


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _tensor_info(path: Path, name: str, entry: object, data_start: int) -> TensorInfo:
    """Check one entry of the header."""
    where = f"tensor {shown(name)}"
    # Ignore other keys, like the library.
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{where} is not described by dtype, shape and data_offsets")
    if any(_is_deep(value) for value in entry.values()):
        _refuse(path, f"{where} is described by lists nested too deeply")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        _refuse(path, f"{where} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        _refuse(path, f"{where} has no valid data_offsets")
    if not isinstance(dtype, str):
        _refuse(path, f"{where} has no dtype")
    if dtype in UNSUPPORTED_SAFETENSORS_TYPES:
        raise UnsupportedModelError(f"{path}: {where} holds {dtype} numbers, which are not supported.")
    number = NUMBERS.get(dtype)
    if number is None:
        _refuse(path, f"{where} has the unknown dtype {shown(dtype)}")
    begin, end = offsets
    # Stop at the limit: the product of a million large dimensions would have megabytes of digits.
    size = number.block_bytes
    for dimension in shape:
        size = min(size * dimension, _LARGEST_SIZE)
    if end - begin != size:
        _refuse(path, f"{where} has {end - begin} bytes, its shape and dtype need {size}")
    return TensorInfo(name, tuple(shape), dtype, path, data_start + begin, size)


def _is_deep(value: object) -> bool:
    """Whether lists and objects are nested more than `_DEEPEST` deep, which the library refuses."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_SIZE


def _check_layout(path: Path, tensors: list[TensorInfo], data_start: int, file_size: int) -> None:
    """Check that the tensors fill the rest of the file without gaps or overlap."""
    position = data_start
    for info in sorted(tensors, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != position:
            kind = "overlaps the one before it" if info.offset < position else "leaves a gap before it"
            _refuse(path, f"tensor {shown(info.name)} {kind}")
        position += info.nbytes
    if position > file_size:
        raise CheckpointError(
            f"{path} has {file_size} bytes, its header describes {position}: the file was cut short. Download it again."
        )
    if position < file_size:
        _refuse(path, f"it has {file_size - position} bytes after its last tensor")


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path} is not a valid safetensors file: {what}. Download it again.")
