"""Texts of many kinds, the same in every run."""

from __future__ import annotations

import random

_PIECES = [
    *("The quick brown fox", "don't", "they'RE", "naïve café", "Straße", "İstanbul", "żółw", "e\u0301 ñ n\u0303"),
    *("你好，世界", "ひらがな カタカナ ｱｲｳ", "한국어 텍스트", "Привет, мир", "Ελληνικά", "ไทย", "हिन्दी", "עברית"),
    *("👩‍👩‍👧", "🏳️‍🌈", "🇩🇪", "👍🏽", "😀😀", "العربية", "\u200b", "\u00a0", "\ufeff", "\u3000", "\u2028"),
    *("0", "7", "42", "123", "2024-01-31", "3.14159", "1,000,000", "1e-5", "0xFF", "²½Ⅷ"),
    *("def f(x):\n    return x ** 2\n", 'if (a && b[i] != "c") {', "</div>", "a->b", "x += 1;", "http://a.b/c?d"),
    *(" ", "  ", "   ", "     ", "\t", "\n", "\n\n", "\r\n", " \n ", "...", "---", "_", "▁", "<", "|>", "[", "#%^"),
    *("camelCaseWords", "SHOUTING", "snake_case_name", "aaaaaaaaaaaaaaaa", "ﬁ", "𝔘𝔫𝔦", "ﷺ", "\u0000", "\u0007"),
]  # fmt: skip


def many_texts(count: int, *, seed: int = 0, without: str = "") -> list[str]:
    """`count` texts put together at random; pieces that hold a character of `without` are left out."""
    chosen = random.Random(seed)
    pieces = [piece for piece in _PIECES if not set(without).intersection(piece)]
    return ["".join(chosen.choices(pieces, k=chosen.randint(1, 8))) for _ in range(count)]
