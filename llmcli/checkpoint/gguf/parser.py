"""Parse GGUF headers: numbers, strings, arrays and tensor descriptions, within limits.

Files are untrusted. Every length is checked against the rest of the file before anything is allocated, and the size of
the whole header is bounded, so that any file is parsed or refused within seconds.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from llmcli.checkpoint.files.weight_file import WeightFile, refuse_foreign, shown
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.sizes import size
from llmcli.text.on_demand.packed_strings import PackedStrings
from llmcli.text.vocab.garbage_collection import no_collection

GGUFValue: TypeAlias = "int | float | bool | str | list[GGUFValue] | PackedStrings | array[int] | array[float]"
"""A metadata value. Arrays are lists, except those of a vocabulary: these are packed, since they are long."""

# The largest real headers (a vocabulary of 262,144 tokens with its merges) have about 20 MB and 1.5 M array elements.
_LARGEST_HEADER = 256 << 20
_MOST_ELEMENTS = 8 << 20
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 18
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 65535
_DEEPEST_ARRAY = 4
# Memory that an array inside an array takes, counted in elements.
_NESTED_COST = 16
_FIRST_READ = 1 << 20

_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VOCABULARY = "tokenizer.ggml."
# Arrays whose element type is fixed (llama.cpp reads them as that type too).
_ARRAY_TYPES = {"tokenizer.ggml.token_type": (4, 5)}
# Types that take the same memory in Python's arrays.
_PACKED = {
    code for code in _NUMBERS.values() if code in "BbHhIifqQd" and array(code).itemsize == struct.calcsize("<" + code)
}
_SMALLEST = {_STRING: 8, _ARRAY: 12, **{kind: struct.calcsize("<" + code) for kind, code in _NUMBERS.items()}}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's description in the header."""

    name: str
    dimensions: tuple[int, ...]
    """In ggml's order: the first is contiguous."""
    ggml_type: int
    offset: int
    """Bytes from the start of the data section."""


@dataclass(frozen=True)
class ParsedHeader:
    """The parsed content of a header."""

    version: int
    metadata: dict[str, GGUFValue]
    tensors: list[TensorEntry]
    end: int
    """Bytes of the header, without the padding after it."""
    file_size: int
    """Bytes of the whole file."""


@no_collection()
def parse_header(path: Path, *, first_read: int = _FIRST_READ) -> ParsedHeader:
    """Parse the header at the start of a file; reads `first_read` bytes, then more if needed.

    Raises:
        CheckpointError: the file cannot be read or is no GGUF file, or its header is broken.
        UnsupportedModelError: an unsupported version or byte order.
    """
    with WeightFile(path) as file:
        return _Parser(file, first_read).header()


def parse_general(path: Path) -> dict[str, GGUFValue]:
    """Read the metadata before the tokenizer's, which usually identify the file; fast for any file.

    Raises:
        CheckpointError: the file cannot be read or is no GGUF file, or that part of its header is broken.
        UnsupportedModelError: an unsupported version or byte order.
    """
    with WeightFile(path) as file:
        return _Parser(file).general()


class _Parser:
    """A position in a header, and the part of the file read so far."""

    def __init__(self, file: WeightFile, first_read: int = _FIRST_READ) -> None:
        self._file = file
        self._position = 0
        self._data = file.read(0, first_read)
        self._elements = 0

    def header(self) -> ParsedHeader:
        version, tensors, keys = self._preamble()
        metadata: dict[str, GGUFValue] = {}
        for _ in range(keys):
            key = self._key(metadata)
            # Tokens may be pieces of characters; surrogate escapes keep their bytes.
            errors = "surrogateescape" if key.startswith(_VOCABULARY) else "replace"
            metadata[key] = self._value(self._number("I"), key, errors, depth=0)
        entries = [self._tensor() for _ in range(tensors)]
        return ParsedHeader(version, metadata, entries, self._position, self._file.size)

    def general(self) -> dict[str, GGUFValue]:
        _, _, keys = self._preamble()
        metadata: dict[str, GGUFValue] = {}
        for _ in range(keys):
            key = self._key(metadata)
            if key.startswith("tokenizer."):
                break
            metadata[key] = self._value(self._number("I"), key, "replace", depth=0)
        return metadata

    def _key(self, metadata: dict[str, GGUFValue]) -> str:
        key = self._name("a metadata key")
        if not key:
            self._refuse("a metadata key is empty")
        if key in metadata:
            self._refuse(f"metadata key {shown(key)} occurs twice")
        return key

    def _preamble(self) -> tuple[int, int, int]:
        path = self._file.path
        if self._data[:4] != b"GGUF":
            refuse_foreign(path, self._data[:64])
            if self._data[5:9] == b"\0\0\0{":
                raise CheckpointError(f"{path} is a safetensors file; give it a name that ends in .safetensors.")
            raise CheckpointError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
        self._position = 4
        version = self._number("I")
        if version & 0xFFFF == 0 and version:
            raise UnsupportedModelError(f"{path} is a big-endian GGUF file; only little-endian ones are supported.")
        if version not in (2, 3):
            raise UnsupportedModelError(f"{path} is a GGUF file of version {version}; versions 2 and 3 are supported.")
        tensors, keys = self._number("Q"), self._number("Q")
        self._check_count(keys, 13, _MOST_KEYS, "metadata keys")
        self._check_count(tensors, 32, _MOST_TENSORS, "tensors")
        return version, tensors, keys

    def _tensor(self) -> TensorEntry:
        name = self._name("a tensor's name")
        count = self._number("I")
        if not 1 <= count <= _MOST_DIMENSIONS:
            self._refuse(f"tensor {shown(name)} has {count} dimensions")
        dimensions = tuple(self._number("Q") for _ in range(count))
        return TensorEntry(name, dimensions, self._number("I"), self._number("Q"))

    def _value(self, kind: int, key: str, errors: str, depth: int) -> GGUFValue:
        if kind in _NUMBERS:
            value: GGUFValue = self._number(_NUMBERS[kind])
            return value
        if kind == _STRING:
            [text] = self._string_bytes(1)
            return text.decode("utf-8", errors)
        if kind != _ARRAY:
            self._refuse(f"metadata key {shown(key)} has a value of unknown type {kind}")
        if depth == _DEEPEST_ARRAY:
            self._refuse(f"metadata key {shown(key)} has arrays nested more than {_DEEPEST_ARRAY} deep")
        kind, count = self._number("I"), self._number("Q")
        if kind not in _SMALLEST:
            self._refuse(f"metadata key {shown(key)} has an array of unknown type {kind}")
        if kind not in _ARRAY_TYPES.get(key, (kind,)):
            self._refuse(f"metadata key {shown(key)} has an array of type {kind}, where 32-bit whole numbers belong")
        self._check_count(count, _SMALLEST[kind], _MOST_ELEMENTS, f"elements in {shown(key)}")
        self._elements += count * (_NESTED_COST if kind == _ARRAY else 1)
        if self._elements > _MOST_ELEMENTS:
            self._refuse(f"its metadata has more than {_MOST_ELEMENTS} array elements")
        packed = key.startswith(_VOCABULARY)
        if kind == _STRING:
            return self._packed_strings(count) if packed else self._strings(count, errors)
        if kind == _ARRAY:
            return [self._value(_ARRAY, key, errors, depth + 1) for _ in range(count)]
        code = _NUMBERS[kind]
        start = self._take(count * struct.calcsize("<" + code))
        if packed and code in _PACKED and sys.byteorder == "little":
            return array(code, self._data[start : self._position])
        return list(struct.unpack_from(f"<{count}{code}", self._data, start))

    def _packed_strings(self, count: int) -> PackedStrings | list[GGUFValue]:
        """Read `count` strings of a vocabulary, packed if all are UTF-8, else with surrogate escapes."""
        start = self._position
        try:
            return PackedStrings(self._string_bytes(count))
        except UnicodeDecodeError:
            self._position = start
            return self._strings(count, "surrogateescape")

    def _strings(self, count: int, errors: str) -> list[GGUFValue]:
        return [string.decode("utf-8", errors) for string in self._string_bytes(count)]

    def _string_bytes(self, count: int) -> Iterator[bytes]:
        """Read `count` strings, each a length and bytes. A tight loop: vocabularies have hundreds of thousands."""
        data, position, available = self._data, self._position, len(self._data)
        length_at = struct.Struct("<Q").unpack_from
        remaining = count
        while remaining:
            start = position + 8
            if start <= available:
                end = start + length_at(data, position)[0]
                if end <= available:
                    yield data[start:end]
                    position = end
                    remaining -= 1
                    continue
            else:
                end = start
            self._position = position
            self._want(end - position)
            data, available = self._data, len(self._data)
        self._position = position

    def _name(self, what: str) -> str:
        length = self._number("Q")
        if length > _LONGEST_NAME:
            self._refuse(f"{what} has {length} bytes")
        start = self._take(length)
        try:
            return self._data[start : self._position].decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(f"{what} is not UTF-8 text")

    def _number(self, code: str) -> int:
        """Read one number; its value may be a float or a bool, depending on `code`."""
        start = self._take(struct.calcsize("<" + code))
        number: int = struct.unpack_from("<" + code, self._data, start)[0]
        return number

    def _take(self, count: int) -> int:
        """Advance by `count` bytes, loaded into `self._data`; returns where they start."""
        self._want(count)
        start = self._position
        self._position += count
        return start

    def _want(self, count: int) -> None:
        """Load `count` bytes from the current position on into `self._data`."""
        end = self._position + count
        if end <= len(self._data):
            return
        if end > self._file.size:
            self._cut_short()
        if end > _LARGEST_HEADER:
            self._refuse(f"its header has more than {size(_LARGEST_HEADER)}")
        # Growing in proportion keeps the copying linear.
        self._data = self._file.read(0, max(end, 4 * len(self._data)))
        if end > len(self._data):
            self._cut_short()

    def _check_count(self, count: int, smallest: int, most: int, what: str) -> None:
        if count > most:
            self._refuse(f"it claims to have {count} {what}")
        if count * smallest > self._file.size - self._position:
            self._refuse(f"it claims to have {count} {what}, for which it is too short")

    def _cut_short(self) -> NoReturn:
        raise CheckpointError(
            f"{self._file.path} ends in the middle of its header: the file was cut short. Download it again."
        )

    def _refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self._file.path} is not a valid GGUF file: {what}. Download it again.")
