"""A word of a reply is found in its tokens."""

from __future__ import annotations

import pytest

from llmcli.commands.chat.reply_words import find_word

PIECES = [b"The", b" capital", b" is", b" Par", b"is", b", and Par", b"is", b" is", b" 4", b" \xc3", b"\xa9t\xc3\xa9s"]


@pytest.mark.parametrize(
    ("wanted", "tokens", "occurrence", "occurrences"),
    [
        ("The", range(1), 1, 1),
        # A whole word, not the end of Paris.
        ("is", range(2, 3), 1, 2),
        ("is 2", range(7, 8), 2, 2),
        ("Paris", range(3, 5), 1, 2),
        ("Paris 2", range(5, 7), 2, 2),
        ("paris 2", range(5, 7), 2, 2),
        ("capital is", range(1, 3), 1, 1),
        # Part of a word.
        ("apit", range(1, 2), 1, 1),
        # A number only in quotes; without, it counts occurrences.
        ('"4"', range(8, 9), 1, 1),
        ("is 4", range(7, 9), 1, 1),
        ('"Paris" 2', range(5, 7), 2, 2),
        ("étés", range(9, 11), 1, 1),
        # With punctuation that the reply does not have there.
        ("paris?", range(3, 5), 1, 2),
        ("“Paris", range(3, 5), 1, 2),
        ("Paris! 2", range(5, 7), 2, 2),
        # With punctuation that it has.
        ("is,", range(4, 6), 1, 1),
    ],
)
def test_words_are_found(wanted: str, tokens: range, occurrence: int, occurrences: int) -> None:
    found = find_word(wanted, PIECES)
    assert found is not None
    assert (found.tokens, found.occurrence, found.occurrences) == (tokens, occurrence, occurrences)


@pytest.mark.parametrize("wanted", ["Rome", "Paris 3", '"Paris" 0', "(", "capital  is", "\\d", "?!", '""'])
def test_other_words_are_not(wanted: str) -> None:
    assert find_word(wanted, PIECES) is None


def test_bytes_that_are_no_text_do_not_move_a_word() -> None:
    found = find_word("b", [b"\xff\xfe", b" a", b" b"])
    assert found is not None and found.tokens == range(2, 3)
