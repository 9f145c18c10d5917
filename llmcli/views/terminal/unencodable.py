"""What a stream shows in the place of a character that its encoding does not have, instead of failing at it."""

from __future__ import annotations

import codecs
import sys

HANDLER = "llmcli.shown"
"""The name of the error handler, for `errors=` of any encoder."""

_ALIKE = {
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
"""For most characters of views a single one, so that columns stay where they are."""


def shown_instead(character: str) -> str:
    r"""ASCII that can stand for `character`: the same without its accents, alike to look at, or a question mark.

    A byte of a name that is not UTF-8 is shown as `\xe8`, which shells read in `$'...'`.
    """
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\u{code:04x}"
    if character in _ALIKE:
        return _ALIKE[character]
    if 0x2500 <= code < 0x2580:
        return "+"
    if 0x2400 <= code < 0x2420:
        # Pictures of control characters: ^[ for ESC.
        return f"^{chr(code - 0x2400 + 0x40)}"
    import unicodedata

    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(part for part in parts if part.isascii())
    # What only changes the character before it has no place of its own.
    return plain or ("" if unicodedata.category(character) in ("Mn", "Me", "Cf") else "?")


def never_fail() -> None:
    """Let standard output and standard error show something for every character, and standard input pass every byte."""
    for stream, errors in ((sys.stdout, HANDLER), (sys.stderr, HANDLER), (sys.stdin, "surrogateescape")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not stream.closed:
            reconfigure(errors=errors)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(shown_instead, error.object[error.start : error.end])), error.end


codecs.register_error(HANDLER, _replaced)
