"""Read protocol buffer messages as numbered fields, without a schema."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: the encoding of a field's value."""


class WireError(ValueError):
    """The bytes are not a protocol buffer message."""


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """The fields of a message in order: (number, wire type, value), where the value is an int for VARINT, else bytes.

    Raises:
        WireError: the bytes are truncated or not a message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise WireError(f"field {number} before byte {at} has the wire type {wire}")
        if number == 0 or size > end - at:
            raise WireError(f"field {number} before byte {at} reaches past the end")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the varint at `at` (seven bits per byte, low bits first, at most 64 bits); returns it and its end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("the file ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"the number before byte {at} is too long")
