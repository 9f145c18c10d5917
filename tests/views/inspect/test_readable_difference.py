"""The note where the readable model's probability of a token differs from the reply's."""

from __future__ import annotations

from llmcli.views.inspect.readable_difference import TokenProbabilities, difference_note


def token(index: int, reply: float, readable: float) -> TokenProbabilities:
    return TokenProbabilities(index, b" a\x1b", reply, readable)


def test_differences_up_to_one_percent_give_no_note() -> None:
    assert difference_note([]) is None
    assert difference_note([token(0, 0.5, 0.509), token(1, 0.2, 0.191)]) is None


def test_the_note_names_the_largest_difference() -> None:
    alone = difference_note([token(3, 0.5, 0.52)])
    assert alone is not None and "by more than 1 %, for token 3 ␣a" in alone and "\x1b" not in alone
    assert alone.endswith(": 52.0%, in the reply 50.0%.")
    note = difference_note([token(0, 0.5, 0.52), token(1, 0.4, 0.3), token(2, 0.4, 0.4)])
    assert note is not None and "(2 of 3 tokens), most for token 1 ␣a" in note and "30.0%, in the reply 40.0%" in note
