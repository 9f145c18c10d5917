from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown

from llmcli.views.reply.markdown_blocks import blocks, end_of, markdown_lines
from tests.support.terminal.markdown_corpus import CORPUS


@pytest.mark.parametrize("name", ["lists", "code", "quotes"])
@pytest.mark.parametrize("width", [40, 80])
def test_markdown_looks_as_rich_renders_it(name: str, width: int) -> None:
    # Rich joins the lines of a paragraph.
    text = CORPUS[name].replace("\n       more", " more").replace("\ngoes on", " goes on").replace("\n>   in", " in")
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(Markdown(text))
    theirs = [line.rstrip() for line in captured.get().splitlines() if line.strip("▌ ")]
    assert [line for line in markdown_lines(blocks(text), width) if line.strip("▌ ")] == theirs


def test_no_text_is_lost_in_markdown() -> None:
    lines = markdown_lines(blocks(CORPUS["prose"]), 200)
    assert "Some text with bold, code, gone, <b>tags</b>, AT&T and a link (https://example.org/x)." in lines
    assert lines.index("Violets are blue") == lines.index("Roses are red") + 1
    assert "Tight text, a picture (cat.png) in it." in lines
    assert "[this]: http://example.org/this" in markdown_lines(blocks(CORPUS["references"]), 80)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("width", [1, 3, 40, 200])
def test_no_line_is_wider_than_the_screen(name: str, width: int) -> None:
    lines = markdown_lines(blocks(CORPUS[name]), width)
    # A wide character needs two columns on any screen.
    assert all(cell_len(line) <= max(width, 2) for line in lines)


def test_control_characters_are_shown_not_sent() -> None:
    text = "\n".join(markdown_lines(blocks(CORPUS["hostile"]), 80))
    assert not any(ord(char) < 0x20 and char != "\n" for char in text)
    assert not {"\x7f", "\x9b", "\u202e"} & set(text)
    assert "␛[31mred␇ \\u202egnp.exe a (b%E2%80%AEc)" in text


def test_code_is_highlighted_and_lines_end_where_their_text_does() -> None:
    lines = markdown_lines(blocks("```python\nreturn 1\n```\n\n**b**\n"), 80, "standard")
    assert len(lines) == 3
    assert "\x1b[" in lines[0]
    assert "return" in lines[0]
    assert cell_len(lines[0]) < 60
    assert lines[2] == "\x1b[1mb\x1b[0m"


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" + "".join(f"x = {n}\n" for n in range(40)) + "\n\n```\n",
        "".join(f"    line {n}\n" for n in range(40)),
        "".join(f"- item {n}\n  - nested\n" for n in range(40)),
        "".join(f"{n}. item {n}\n" for n in range(7, 47)),
        "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n % 3} |\n" for n in range(10, 50)),
        "> quoted\n" * 40,
        "words " * 200,
    ],
)
@pytest.mark.parametrize("lines", [1, 5, 39, 40, 41, 100])
def test_the_end_of_a_long_block_renders_as_in_the_whole_block(text: str, lines: int) -> None:
    (block,) = blocks(text)
    whole, short = (markdown_lines([each], 40, "standard") for each in (block, end_of(block, lines)))
    assert len(short) >= min(lines, len(whole))
    end = min(lines, len(short))
    assert short[-end:] == whole[-end:]
    assert lines < 40 or short == whole
