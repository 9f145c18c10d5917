"""A text in tokens, to be drawn."""

from __future__ import annotations

from llmcli.inspection.evaluation.tokenization import TextToken, Tokenization

RESULT = Tokenization(
    tokens=(
        TextToken(0, 256, "<|bos|>", b"<|bos|>", "<|bos|>", control=True),
        TextToken(1, 70, " Zoë\n", " Zoë\n".encode(), "ĠZoÃ«Ċ", control=False),
        TextToken(2, 1027, "\ufffd", b"\xf0\x9f", "ðŁ", control=False),
        TextToken(3, 9, "\x1b[2J", b"\x1b[2J", "x", control=False),
    ),
    characters=10,
    bytes=12,
)
