"""Read GGUF headers: metadata by key and tensors by name, over all shards of a split file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.metadata import GGUFMetadata
from llmcli.checkpoint.gguf.parser import GGUFValue, ParsedHeader, TensorEntry, parse_header
from llmcli.checkpoint.tensors.dtypes import GGML_TYPES, LAYOUTS
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

__all__ = ["GGUFHeader", "GGUFValue", "read_gguf"]

_DEFAULT_ALIGNMENT = 32
_LARGEST_ALIGNMENT = 1 << 20
_PART_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.DOTALL | re.IGNORECASE)


@dataclass
class GGUFHeader(GGUFMetadata):
    """Metadata of a GGUF file and the positions of its tensors; for a split file the tensors of all shards."""

    version: int
    tensors: dict[str, TensorInfo]
    alignment: int


def read_gguf(path: Path, parsed: ParsedHeader | None = None) -> GGUFHeader:
    """Read the header of a GGUF file; for any shard of a split file, the headers of all shards beside it.

    `parsed` is the parsed header of `path`, if there is one already.

    Raises:
        CheckpointError: a file is missing, cannot be read, or is not a valid GGUF file.
        UnsupportedModelError: an unsupported version, byte order or tensor type.
    """
    header = _read_file(path, parsed)
    count = header.get_int("split.count", 1)
    return header if count <= 1 else _read_parts(path, count)


def _read_parts(path: Path, count: int) -> GGUFHeader:
    match = _PART_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise CheckpointError(
            f"{path} is one of {count} parts of a model, but its name does not end in -00001-of-{count:05d}.gguf or "
            "the like, so the others cannot be found. Give all parts their original names."
        )
    paths = [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{match[4]}") for number in range(1, count + 1)]
    missing = [part for part in paths if not part.exists()]
    if missing:
        raise CheckpointError(f"{path} is one of {count} parts of a model; {missing[0]} is missing. Download it too.")
    whole = _read_file(paths[0])
    for index, part in enumerate(paths):
        header = whole if index == 0 else _read_file(part)
        if header.get_int("split.no") != index or header.get_int("split.count") != count:
            raise CheckpointError(f"{part} is not part {index + 1} of {count}, as its name says; download it again.")
        if header is whole:
            continue
        for name, info in header.tensors.items():
            if name in whole.tensors:
                raise CheckpointError(f"Tensor {shown(name)} is in both {whole.tensors[name].path} and {part}.")
            whole.tensors[name] = info
    total = whole.get_int("split.tensors.count", len(whole.tensors))
    if total != len(whole.tensors):
        raise CheckpointError(f"{paths[0]} and its other parts hold {len(whole.tensors)} tensors instead of {total}.")
    return whole


def _read_file(path: Path, parsed: ParsedHeader | None = None) -> GGUFHeader:
    parsed = parsed or parse_header(path)
    header = GGUFHeader(path, parsed.metadata, parsed.version, {}, _DEFAULT_ALIGNMENT)
    header.alignment = alignment = header.get_int("general.alignment", _DEFAULT_ALIGNMENT)
    if not 1 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise CheckpointError(f"{path} has general.alignment = {alignment}, which must be a power of two.")
    _place_tensors(header, parsed)
    return header


def _place_tensors(header: GGUFHeader, parsed: ParsedHeader) -> None:
    """Compute the file position of each tensor, and check that it is inside the file and overlaps no other tensor."""
    data_start = -(-parsed.end // header.alignment) * header.alignment
    for entry in parsed.tensors:
        if entry.name in header.tensors:
            raise CheckpointError(f"{header.path} has two tensors {shown(entry.name)}; download it again.")
        info = _tensor_info(header.path, entry, data_start)
        if entry.offset % header.alignment:
            raise CheckpointError(f"{header.path}: tensor {shown(info.name)} is not aligned; download the file again.")
        if info.offset + info.nbytes > parsed.file_size:
            raise CheckpointError(
                f"{header.path} has {parsed.file_size} bytes, but tensor {shown(info.name)} goes up to "
                f"{info.offset + info.nbytes}: the file was cut short. Download it again."
            )
        header.tensors[info.name] = info
    position = data_start
    for info in sorted(header.tensors.values(), key=lambda info: info.offset):
        if info.offset < position:
            raise CheckpointError(
                f"{header.path}: tensor {shown(info.name)} overlaps another one; download the file again."
            )
        position = info.offset + info.nbytes


def _tensor_info(path: Path, entry: TensorEntry, data_start: int) -> TensorInfo:
    where = f"tensor {shown(entry.name)}"
    encoding_name = GGML_TYPES.get(entry.ggml_type)
    if encoding_name is None:
        raise CheckpointError(f"{path}: {where} is stored as unknown type {entry.ggml_type}.")
    layout = LAYOUTS.get(encoding_name)
    if layout is None:
        raise UnsupportedModelError(
            f"{path}: {where} is stored as {encoding_name}, which is not supported; use another quantization of the "
            "model, such as Q4_K_M or Q8_0."
        )
    shape = tuple(reversed(entry.dimensions))
    if 0 in shape:
        raise CheckpointError(f"{path}: {where} has shape {list(shape)}; no dimension may be 0.")
    if shape[-1] % layout.block_size:
        raise CheckpointError(
            f"{path}: {where} has rows of {shape[-1]} values, but {encoding_name} needs a multiple of "
            f"{layout.block_size}; download the file again."
        )
    nbytes = layout.nbytes(math.prod(shape))
    return TensorInfo(entry.name, shape, encoding_name, path, data_start + entry.offset, nbytes)
