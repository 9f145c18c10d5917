"""The screen after streaming a text equals the screen after drawing it in one go."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.views.reply.markdown_blocks import blocks, markdown_lines
from llmcli.views.reply.markdown_stream import MarkdownStream
from llmcli.views.terminal.live_region import OpenLines
from tests.support.terminal.emulator import Emulator
from tests.support.terminal.markdown_corpus import CORPUS

# Building blocks of Markdown.
BITS = (
    *("> ", "- ", "1. ", "* ", "|", "a", "b c", "\n", "\n\n", "```", "`", "**", "_", "# ", "---", "    ", "  ", "你好"),
    *("|---|---|\n", "| a | b |\n", "~~", "[", "](", "x)", "<div>", "\\", "12345678. ", "=", "```py\n", "- [ ] ", "#"),
    *("1", "-", "***\n", "* * *", "[a]: x\n", "\t", "+"),
)


def stream_on(emulator: Emulator, least_pause_s: float = 0.0) -> MarkdownStream:
    return MarkdownStream(
        OpenLines(emulator.write, emulator.size, least_pause_s=least_pause_s, pauses=0, rewraps=False), None
    )


def pieces(text: str, places: Iterable[int]) -> list[str]:
    return [text[a:b] for a, b in itertools.pairwise([0, *sorted(places), len(text)])]


def streamed(emulator: Emulator, parts: Iterable[str]) -> list[str]:
    stream = stream_on(emulator)
    for part in parts:
        stream.push(part)
    stream.finish()
    return emulator.lines()


def at_once(text: str, width: int) -> list[str]:
    return [line.rstrip() for line in markdown_lines(blocks(text), width)]


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize(("width", "height"), [(40, 24), (40, 4), (80, 24), (80, 7), (200, 50)])
def test_streamed_markdown_equals_markdown_drawn_at_the_end(name: str, width: int, height: int) -> None:
    text = CORPUS[name]
    draw = random.Random(f"{name} {width} {height}")
    emulator = Emulator(width, height)
    parts = pieces(text, draw.choices(range(len(text) + 1), k=min(len(text), 80)))
    assert streamed(emulator, parts) == at_once(text, width)
    # Each update is one write, and the last needs one more.
    assert len(emulator.writes) <= len(parts) + 1


@given(st.lists(st.sampled_from(BITS), min_size=1, max_size=40).map("".join), st.data())
@settings(max_examples=60, deadline=None)
def test_random_markdown_streamed_in_random_pieces_equals_the_whole(text: str, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=30))
    assert streamed(Emulator(30, 6), pieces(text, places)) == at_once(text, 30)


def test_finished_lines_are_not_written_again() -> None:
    emulator = Emulator(40, 12)
    stream = stream_on(emulator)
    for char in "First block.\n\n- one\n- t":
        stream.push(char)
    emulator.deface("First")
    for char in "wo\n\nThird *block*.\n\nFourth.\n":
        stream.push(char)
    stream.finish()
    assert emulator.lines() == ["#irst block.", "", " • one", " • two", "", "Third block.", "", "Fourth."]


def test_only_changed_lines_are_written_in_one_write() -> None:
    emulator = Emulator(40, 12)
    stream = stream_on(emulator)
    stream.push("one two three four five six seven eight nine ten eleven")
    assert emulator.lines() == ["one two three four five six seven eight", "nine ten eleven"]
    stream.push(" twelve")
    assert emulator.writes[-1] == "\x1b[?2026h\r\x1b[2Knine ten eleven twelve\x1b[?2026l"
    stream.push("")
    assert len(emulator.writes) == 2


def test_updates_have_a_minimum_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("llmcli.views.terminal.live_region.time.perf_counter", lambda: now)
    emulator = Emulator(40, 12)
    stream = stream_on(emulator, least_pause_s=0.05)
    for _ in range(300):
        now += 0.01
        stream.push("word ")
    assert 50 <= len(emulator.writes) <= 61
    stream.finish()
    assert emulator.lines() == at_once("word " * 300, 40)


def test_an_ambiguous_line_is_held_back() -> None:
    emulator = Emulator(40, 12)
    stream = stream_on(emulator)
    for part, shown in (("Text\n", "Text"), ("-", "Text"), ("--", "Text"), ("-\n", "Text"), ("| a |\n|-", "| a |")):
        stream.push(part)
        assert emulator.lines()[-1] == shown
    stream.push("-|\n")
    assert emulator.lines()[-2:] == [" a", " ─"]


@pytest.mark.parametrize("size", [(30, 10), (60, 10), (40, 6), (40, 30), (20, 5)])
def test_resizing_the_window_keeps_finished_lines(size: tuple[int, int]) -> None:
    emulator = Emulator(40, 10)
    stream = stream_on(emulator)
    before = "# Finished\n\n" + "\n".join(f"Line {n}" for n in range(5)) + "\n\n"
    stream.push(before + "The open one has\na few words")
    emulator.resize(*size)
    stream.push(" and now it has so many more of them that it is broken again")
    stream.push("\n\nAnd another.\n\n- list\n")
    stream.finish()
    lines = emulator.lines()
    width = size[0]
    whole = before + "The open one has\na few words and now it has so many more of them that it is broken again\n\n"
    expected = at_once(whole + "And another.\n\n- list\n", width)
    # Finished lines keep the old width.
    assert lines == at_once(before, 40) + expected[len(at_once(before, width)) :]


def test_lines_scrolled_off_by_a_lower_window_are_not_drawn_twice() -> None:
    emulator = Emulator(40, 12)
    stream = stream_on(emulator)
    text = "".join(f"- item {n}\n" for n in range(8))
    stream.push(text)
    emulator.resize(40, 4)
    stream.push("- last\n")
    stream.push("- very last\n\nEnd.\n")
    stream.finish()
    assert emulator.lines() == at_once(text + "- last\n- very last\n\nEnd.\n", 40)
