"""Text made safe for a terminal: what could drive it or reorder what it shows becomes visible characters."""

from __future__ import annotations

from llmcli.views.terminal import unencodable

_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **{code: unencodable.shown_instead(chr(code)) for code in range(0xD800, 0xE000)},
}


def visible(text: str) -> str:
    """`text` with every character shown that could drive a terminal or reorder what it shows.

    Control characters but newline and tab, bidirectional overrides and isolates, and lone surrogates (bytes of names
    that are not UTF-8) are replaced one by one, so the pieces of a stream can be treated separately.
    """
    return text.translate(_VISIBLE)
