"""The pages of the manual: list them, split them into sections, and search them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
TOPICS = (
    "usage",
    "chat",
    "structured-output",
    "serve",
    "inspect",
    "editing",
    "json",
    "python",
    "models",
    "performance",
    "scale",
    "security",
    "troubleshooting",
    "architecture",
)
"""The names of the pages, in the order in which `llm help` lists them."""

_FIRST_CELL = re.compile(r"\| (`.+?)(?<!\\) \|")
_HEADING = re.compile(r"#{1,6} +(.+)")


@dataclass(frozen=True)
class Section:
    """A heading and the text below it, up to the next heading."""

    topic: str
    title: str
    text: str
    """Markdown, with the heading as its first line."""


def page(topic: str) -> str:
    """The Markdown of one page; `topic` is one of `TOPICS`."""
    return (FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def summary(topic: str) -> str:
    """The paragraph below the title of a page, without backticks."""
    return page(topic).split("\n\n", 2)[1].strip().replace("`", "")


def sections(topic: str) -> list[Section]:
    """The sections of one page. A heading inside a code block is text."""
    found: list[Section] = []
    lines: list[str] = []
    for line, in_code in _lines(page(topic)):
        if lines and not in_code and _HEADING.fullmatch(line):
            found.append(_section(topic, lines))
            lines = []
        lines.append(line)
    return [*found, _section(topic, lines)]


def paragraph(topic: str, title: str) -> str:
    """The first paragraph of the section `title` of a page, as one line of plain text without Markdown quotes."""
    section = next(one for one in sections(topic) if one.title == title)
    text = section.text.split("\n\n", 2)[1]
    return " ".join(re.sub(r"`|\*\*", "", for_terminal(text)).split())


def search(words: str) -> list[Section]:
    """The sections of all pages that contain `words`, ignoring case; those with `words` in their title come first."""
    wanted = words.casefold()
    found = [one for topic in TOPICS for one in sections(topic) if wanted in one.text.casefold()]
    return sorted(found, key=lambda one: wanted not in one.title.casefold())


def about_flag(flag: str) -> list[Section]:
    """The sections with an entry for the flag, each cut down to its title and the table rows of that flag."""
    every = (one for topic in TOPICS for one in sections(topic))
    return [Section(one.topic, one.title, rows) for one in every if (rows := _rows(one.text, flag))]


def topics_about(command: str) -> list[str]:
    """The pages that mention `llm COMMAND`, the most mentions first."""
    spelled = re.compile(rf"\bllm {re.escape(command)}\b")
    counts = {topic: len(spelled.findall(page(topic))) for topic in TOPICS}
    return sorted((topic for topic in TOPICS if counts[topic]), key=lambda topic: -counts[topic])


def for_terminal(text: str) -> str:
    """`text` with links to other pages as commands, and without comments, pictures and options of code blocks."""
    lines = []
    for line, in_code in _lines(text):
        if line.startswith("```"):
            line = line.partition(" ")[0]
        elif not in_code:
            line = re.sub(r"\[([^]]+)]\((?:([a-z-]+)\.md)?(#[^)]*)?\)", _as_command, line)
            line = re.sub(r"<!--.*?-->|^!\[.*]\(.*\)$", "", line)
        lines.append(line)
    return "\n".join(lines)


def _rows(text: str, flag: str) -> str:
    """The first line of a section, and its table rows that begin with the flag, below their tables' heads."""
    first, *lines = text.split("\n")
    found: list[str] = []
    head: list[str] = []
    for before, line in itertools.pairwise(lines):
        cell = _FIRST_CELL.match(line)
        if line.startswith("|---"):
            head = ["", before, line]
        elif cell and any(code.split()[0] == flag for code in re.findall(r"`([^`]+)`", cell[1])):
            found += [*head, line]
            head = []
    return "\n".join([first, *found]) + "\n" if found else ""


def _as_command(link: re.Match[str]) -> str:
    text, topic = link[1], link[2]
    return f"{text} (`llm help {topic}`)" if topic else text


def _section(topic: str, lines: list[str]) -> Section:
    heading = _HEADING.fullmatch(lines[0])
    return Section(topic, heading[1] if heading else "", "\n".join(lines).strip() + "\n")


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a Markdown text, and whether each is part of a code block or one of its fences."""
    in_code = False
    for line in text.split("\n"):
        fence = line.startswith("```")
        yield line, in_code or fence
        in_code ^= fence
