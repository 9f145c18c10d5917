"""Make text safe for a terminal: control and bidirectional characters become visible characters."""

from __future__ import annotations

from llmcli.views.terminal import unencodable

_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **{code: unencodable.ascii_substitute(chr(code)) for code in range(0xD800, 0xE000)},
}


def visible(text: str) -> str:
    """`text` with visible replacements for characters that could control a terminal or reorder its output.

    Replaces control characters except newline and tab, bidirectional overrides and isolates, and lone surrogates
    (bytes of file names that are not UTF-8). Each character is replaced independently of its neighbors, so a stream
    can be sanitized piece by piece.
    """
    return text.translate(_VISIBLE)
