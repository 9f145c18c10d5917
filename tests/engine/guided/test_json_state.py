from __future__ import annotations

import pytest

from llmcli.engine.guided.json_state import EXPONENT_DIGITS, FRACTION_DIGITS, INTEGER_DIGITS, JsonText, leading_digits


@pytest.mark.parametrize(
    ("said", "in_string", "left"),
    [
        (b"", False, INTEGER_DIGITS),
        (b'{"a": 12', False, INTEGER_DIGITS - 2),
        (b'{"a": -12', False, INTEGER_DIGITS - 2),
        (b'{"a": 12, ', False, INTEGER_DIGITS),
        (b'{"a": 0.', False, FRACTION_DIGITS),
        (b'{"a": 0.123', False, FRACTION_DIGITS - 3),
        (b"[1.5e", False, EXPONENT_DIGITS),
        (b"[15E-3", False, EXPONENT_DIGITS - 1),
        (b"[1.5e10, 1", False, INTEGER_DIGITS - 1),
        (b"[true, 1", False, INTEGER_DIGITS - 1),
        (b"1" * 99, False, 0),
        # Digits in a string do not count.
        (b'["1.5e', True, INTEGER_DIGITS),
        (b'["12345', True, INTEGER_DIGITS),
        (b'["\\"12', True, INTEGER_DIGITS),
        (b'["\\\\", 12', False, INTEGER_DIGITS - 2),
    ],
)
def test_the_state_does_not_depend_on_how_the_text_is_split(said: bytes, in_string: bool, left: int) -> None:
    at_once = JsonText().after(said)
    assert (at_once.in_string, at_once.digits_left) == (in_string, left)
    for cut in range(len(said)):
        assert JsonText().after(said[:cut]).after(said[cut:]) == at_once


def test_leading_digits_of_a_token() -> None:
    assert [leading_digits(data) for data in (b"", b"a1", b"12a3", b"007")] == [0, 0, 2, 3]
