from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.text.stop_strings import StopStrings

SHORT = st.text("ab\n", max_size=12)


@given(parts=st.lists(SHORT), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4))
def test_any_split_gives_the_same_text_as_the_whole(parts: list[str], stops: list[str]) -> None:
    text = "".join(parts)
    found = [at for at in map(text.find, stops) if at >= 0]
    stream, shown, stopped = StopStrings(stops), "", False
    for part in parts:
        piece, stopped = stream.push(part)
        assert text.startswith(shown + piece)
        shown += piece
    assert not stopped or found
    assert shown + stream.finish() == text[: min(found, default=len(text))]


def test_nothing_is_held_back_that_cannot_begin_a_stop_string() -> None:
    stream = StopStrings(["END"])
    assert stream.push("The E") == ("The ", False)
    assert stream.push("ast") == ("East", False)
    assert stream.push(". EN") == (". ", False)
    assert stream.push("D and more") == ("", True)
    assert stream.push("and more") == ("", True)
    assert stream.finish() == ""


def test_without_stop_strings_everything_passes() -> None:
    stream = StopStrings([])
    assert stream.push("text") == ("text", False)
    assert stream.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopStrings(["\n", ""])
