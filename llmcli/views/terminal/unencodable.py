"""Replace characters that a stream's encoding lacks, instead of raising an error."""

from __future__ import annotations

import codecs
import sys

HANDLER = "llmcli.shown"
"""The name of the error handler, for `errors=` of any encoder."""

_SUBSTITUTES = {
    # Levels of a curve, and shades.
    **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)),
    **dict(zip("▏▎▍▌▋▊▉", ".--==##", strict=True)),
    **dict(zip("░▒▓▀▐●•·", ".:%##**.", strict=True)),
    **dict(zip("\u2500\u2501\u2502\u2503\u250a\u2550\u2551\u2574\u2576", "--|||=|--", strict=True)),
    **dict(zip("\u2010\u2011\u2012\u2013\u2014\u2212", "------", strict=True)),
    **dict(zip("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u00ab\u00bb", '\'\'\'\'"""""', strict=True)),
    **dict(zip("→←↑↓⇥⏎␣␡×", "><^v>/_?x", strict=True)),
    "…": "...",
}
"""Most characters used in views have a substitute of one character, so that columns stay aligned."""


def ascii_substitute(character: str) -> str:
    r"""ASCII substitute for `character`: without its accents, similar in shape, or a question mark.

    A byte of a file name that is not UTF-8 becomes `\xe8`, which shells read in `$'...'`.
    """
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\u{code:04x}"
    if character in _SUBSTITUTES:
        return _SUBSTITUTES[character]
    if 0x2500 <= code < 0x2580:
        return "+"
    if 0x2400 <= code < 0x2420:
        # Control pictures: ^[ for ESC.
        return f"^{chr(code - 0x2400 + 0x40)}"
    import unicodedata

    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(part for part in parts if part.isascii())
    # Combining marks take no column.
    return plain or ("" if unicodedata.category(character) in ("Mn", "Me", "Cf") else "?")


def replace_unencodable() -> None:
    """Set error handlers so that stdout and stderr accept every character and stdin accepts every byte."""
    for stream, errors in ((sys.stdout, HANDLER), (sys.stderr, HANDLER), (sys.stdin, "surrogateescape")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not stream.closed:
            reconfigure(errors=errors)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(ascii_substitute, error.object[error.start : error.end])), error.end


codecs.register_error(HANDLER, _substitute)
