"""Decode text of unknown encoding from files, pipes and the command line; refuse it rather than guess characters."""

from __future__ import annotations

import codecs
import locale
from contextlib import suppress

from llmcli.errors import UsageError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose little-endian mark is a prefix of this one.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python's codecs for its own source code and for host names.
_NOT_FOR_TEXT = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
_ADVICE = "Say how it is encoded, as in --encoding cp1252 or --encoding utf-16-le, or save it as UTF-8."
# Bytes examined to tell UTF-16 from text with a stray NUL.
_EXAMINED = 1 << 16


class UnknownEncodingError(UsageError):
    """Text is not UTF-8, and its encoding is not known."""


def checked_encoding(name: str) -> str:
    """Return `name` if Python has a text codec of this name.

    Raises:
        UsageError: there is no such codec.
    """
    try:
        found = codecs.lookup(name).name.replace("_", "-")
        # Codecs such as hex and zlib are found too, but do not decode bytes to text.
        b"a".decode(name, errors="replace")
    except (LookupError, ValueError):
        found = None
    if found is None or found in _NOT_FOR_TEXT:
        raise UsageError(f"{name!r} is not an encoding of text; give one such as utf-8, utf-16-le, cp1252 or latin-1.")
    return name


def text_from_bytes(data: bytes, source: str, encoding: str | None = None, *, instead: str | None = None) -> str:
    """Decode `data` to text, without its byte order mark.

    A byte order mark decides the encoding; without one, `encoding` if given; otherwise UTF-8 is tried, then the
    encoding of the locale. Error messages call the data `source` and recommend `instead`.

    Raises:
        UnknownEncodingError: the data is neither UTF-8 nor in the encoding of the locale.
        UsageError: the data is not valid in its declared encoding, or looks like UTF-16 or UTF-32 without a mark.
    """
    for mark, marked in _MARKS:
        if data.startswith(mark):
            what = f"is not {_label(marked)}, as its byte order mark says"
            return _decoded(data, marked, source, what, instead or "Save it again as UTF-8.")[1:]
    if encoding is not None:
        what = f"is not in the encoding {encoding}"
        text = _decoded(data, encoding, source, what, "Give another --encoding.").removeprefix("\ufeff")
        # UTF-7 can encode lone surrogates, which cannot be written.
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"{source} {what}. Give another --encoding.")
        return text
    if wide := _wide_encoding(data):
        raise UsageError(
            f"{source} has NUL bytes, the first at offset {data.index(0)}, and looks like {_label(wide)} without a "
            f"byte order mark. {instead or f'Read it with --encoding {wide}.'}"
        )
    local = _locale_encoding()
    if local is not None:
        with suppress(UnicodeError):
            return data.decode("utf-8")
        what = f"is neither UTF-8 nor in the encoding of the locale, {local}"
    else:
        what = "is not UTF-8"
    return _decoded(data, local or "utf-8", source, what, instead or _ADVICE, UnknownEncodingError)


def _decoded(
    data: bytes, encoding: str, source: str, what: str, advice: str, kind: type[UsageError] = UsageError
) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"{what}: the byte at offset {error.start} is 0x{data[error.start]:02x}"
    except UnicodeError:  # codecs that do not report the position
        pass
    raise kind(f"{source} {what}. {advice}")


def _wide_encoding(data: bytes) -> str | None:
    """Guess UTF-16 or UTF-32 from the positions of NUL bytes; None if they do not fit either.

    In these encodings the upper bytes of spaces, digits and line ends are zero, all at positions of the same parity.
    """
    if len(data) % 2:
        return None
    data = data[:_EXAMINED]
    nuls = [data[place::4].count(0) for place in range(4)]
    # At least one of 16 characters is such a one. A single NUL is more likely the end of a C string.
    if sum(nuls) < 2 or sum(nuls) * 16 < len(data) // 2:
        return None
    # In UTF-32 the highest byte of a character is always zero, and the next one except for emoji and the like.
    quarter = len(data) / 4
    if nuls[3] == quarter and nuls[2] and not nuls[0]:
        return "utf-32-le"
    if nuls[0] == quarter and nuls[1] and not nuls[3]:
        return "utf-32-be"
    if nuls[0] == nuls[2] == 0:
        return "utf-16-le"
    return "utf-16-be" if nuls[1] == nuls[3] == 0 else None


def _locale_encoding() -> str | None:
    """The encoding of the locale; None if it is UTF-8."""
    try:
        name = codecs.lookup(locale.getpreferredencoding(False)).name
    except LookupError:
        return None
    return None if name == "utf-8" else name


def _label(encoding: str) -> str:
    return encoding.upper().replace("-LE", " (little-endian)").replace("-BE", " (big-endian)")
