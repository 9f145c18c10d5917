"""Files in a message: a model can tell where each begins and ends, and the user's text is found again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmcli.text.chat.attached_files import with_files, without_files

FENCED = "A list:\n````\n```\n````"


def test_files_come_first_with_names_and_borders() -> None:
    assert with_files("Why?", [("a.txt", "One.\n"), ("b c.py", "x = 1")]) == (
        "a.txt\n```\nOne.\n\n```\n\nb c.py\n```\nx = 1\n```\n\nWhy?"
    )
    assert with_files("", [("a.txt", "One.")]) == "a.txt\n```\nOne.\n```"
    assert with_files("Why?", []) == "Why?"


def test_a_text_cannot_end_its_own_fence() -> None:
    assert with_files("", [("a.md", FENCED)]) == f"a.md\n`````\n{FENCED}\n`````"


texts = st.text(st.sampled_from("`\n ab"), max_size=20)


@given(st.lists(st.tuples(st.just("name.md"), texts), max_size=3))
def test_the_text_is_found_behind_any_files(files: list[tuple[str, str]]) -> None:
    assert without_files(with_files("Why?", files)) == "Why?"


def test_a_message_of_files_alone_is_kept() -> None:
    message = with_files("", [("a.txt", "One.")])
    assert without_files(message) == message
