"""Markdown as lines for a terminal, a block at a time, so that a text that is still being written can be drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement, TableElement
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.sanitize import visible

Colors = Literal["standard", "256", "truecolor"] | None
"""What the terminal can show; None is text without any style."""

# The terminal's own colors and background, whichever they are.
_CODE_THEME = "ansi_dark"


@dataclass(frozen=True)
class MarkdownBlock:
    """A paragraph, list, table, ... at the top level of a text."""

    tokens: tuple[Token, ...]
    line: int
    """The line of the text it begins with, counted from 0."""


def blocks(text: str) -> list[MarkdownBlock]:
    """The blocks of `text`.

    HTML is text, and so are reference definitions: what has been read of a text must not mean something else because
    of what follows later.
    """
    found: list[MarkdownBlock] = []
    tokens: list[Token] = []
    for token in _parser().parse(visible(text)):
        tokens.append(token)
        if token.level == 0 and token.nesting <= 0:
            found.append(MarkdownBlock(tuple(_clean(tokens)), (tokens[0].map or [0])[0]))
            tokens = []
    return found


def end_of(block: MarkdownBlock, lines: int) -> MarkdownBlock:
    """`block` itself, or less of it that has at least so many lines and looks the same at its end.

    The columns of a table may have other widths.
    """
    first, tokens = block.tokens[0], block.tokens
    if first.type in ("fence", "code_block"):
        code = first.content.rstrip().split("\n")
        return block if len(code) <= lines else _short(block, first.copy(content="\n".join(code[-lines:])))
    part = {"bullet_list_open": "list_item_open", "ordered_list_open": "list_item_open", "table_open": "tr_open"}
    # Those of lists in the list are deeper.
    parts = [at for at, token in enumerate(tokens) if token.level <= 2 and token.type == part.get(first.type)]
    head = 1 if first.type == "table_open" else 0
    if len(parts) <= head + lines:
        return block
    if first.type == "ordered_list_open":
        first = first.copy(attrs={"start": int(first.attrs.get("start", 1)) + len(parts) - lines})
    return _short(block, first, *tokens[1 : parts[head]], *tokens[parts[-lines] :])


def _short(block: MarkdownBlock, *tokens: Token) -> MarkdownBlock:
    return MarkdownBlock(tokens, block.line)


def markdown_lines(found: Sequence[MarkdownBlock], width: int, colors: Colors = None) -> list[str]:
    """The lines that `found` take up at `width` columns, a blank one between two blocks."""
    lines: list[str] = []
    for block in found:
        own = lines_of(_Markdown(block.tokens), width, colors)
        if lines and own:
            lines.append("")
        lines += own
    return lines


def lines_of(view: RenderableType, width: int, colors: Colors = None) -> list[str]:
    """The lines of `view` without blank ones around them, each with its own escape sequences."""
    console = Console(
        file=io.StringIO(),
        width=max(width, 1),
        color_system=colors,
        force_terminal=True,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    options = console.options.update(height=None)
    lines = [
        # On a screen of a few columns Rich's lines can still be wider.
        _trimmed(Segment.adjust_line_length(line, console.width, pad=False))
        for line in console.render_lines(view, options, pad=False)
    ]
    while lines and not lines[0]:
        del lines[0]
    while lines and not lines[-1]:
        del lines[-1]
    if not lines:
        return []
    with console.capture() as captured:
        console.print(Segments(segment for line in lines for segment in (*line, Segment.line())), end="", crop=False)
    return captured.get().removesuffix("\n").split("\n")


class _Heading(Heading):
    """Where it begins, everything begins: a heading that grows must not move."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("", justify="left").append_text(self.text)


class _Table(TableElement):
    """A table that breaks a long word rather than cut it off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "table_open": _Table,
    }

    def __init__(self, tokens: Sequence[Token]) -> None:
        # A link shows where it leads: hidden behind other words it could lead anywhere.
        super().__init__("", code_theme=_CODE_THEME, hyperlinks=False)
        self.parsed = list(tokens)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def _clean(tokens: Sequence[Token]) -> Iterator[Token]:
    """`tokens` as they are shown: harmless, with the lines of their author, and with pictures as words."""
    for token in tokens:
        token.content = visible(token.content)
        for name in ("href", "src", "title"):
            if name in token.attrs:
                token.attrs[name] = visible(str(token.attrs[name]))
        if token.type == "softbreak":
            # Who writes verses seldom ends their lines as Markdown would have it.
            token.type, token.tag = "hardbreak", "br"
        elif token.type == "image":
            token.type, token.tag = "text", ""
            token.content = f"{token.content} ({token.attrs.get('src', '')})".strip()
            token.children = None
        if token.children:
            token.children = list(_clean(token.children))
        yield token


def _trimmed(line: list[Segment]) -> list[Segment]:
    """`line` without spaces at its end that nobody sees; with them it would not survive a narrower window."""
    line = [segment for segment in line if segment.text]
    while line:
        text, style, _ = line[-1]
        background = style is not None and style.bgcolor is not None and not style.bgcolor.is_default
        if background or (style is not None and (style.underline or style.reverse)):
            return line
        if text.rstrip(" "):
            line[-1] = Segment(text.rstrip(" "), style)
            return line
        line.pop()
    return line
