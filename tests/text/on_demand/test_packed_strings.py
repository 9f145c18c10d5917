from __future__ import annotations

import pytest

from llmcli.text.on_demand.packed_strings import PackedStrings

# More than one block of strings, with characters of each length in UTF-8.
STRINGS = ["a", "é", "", "▁\0", "\n\n", "😀", " "] * 1000


def test_strings_come_out_as_they_went_in() -> None:
    packed = PackedStrings(string.encode() for string in STRINGS)
    assert packed == STRINGS
    assert list(packed) == [packed[at] for at in range(len(packed))] == STRINGS
    assert (packed[4095], packed[4096], packed[-1]) == (STRINGS[4095], STRINGS[4096], " ")
    assert packed[4090:4100] == STRINGS[4090:4100]
    assert packed != STRINGS[1:]
    assert "and 6992 more" in repr(packed)
    with pytest.raises(IndexError):
        packed[len(STRINGS)]


def test_strings_are_found() -> None:
    packed = PackedStrings(string.encode() for string in [*STRINGS, "last"])
    assert packed.matches({b"last", "😀".encode()}) == [*range(5, 7000, 7), 7000]
    assert [packed.find(string) for string in ("a", "", "last", "las", "\n", "\xff")] == [0, 2, 7000, None, None, None]
    assert packed.longest == 4
    assert packed.has_empty()
    assert packed.has_duplicates()
    distinct = PackedStrings([b"a", b"b\0"])
    assert not distinct.has_empty()
    assert not distinct.has_duplicates()
    assert distinct.longest == 2
    assert PackedStrings([]).longest == 0


@pytest.mark.parametrize("strings", [[b"\xff"], [b"a\xff", b"b"], [b"\xe2", b"\x96\x81"], [b"a", b"\x80"]])
def test_bytes_that_are_not_utf8_are_refused(strings: list[bytes]) -> None:
    with pytest.raises(UnicodeDecodeError):
        PackedStrings(strings)
