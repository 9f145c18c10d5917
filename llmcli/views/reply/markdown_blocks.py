"""Render Markdown into terminal lines block by block, so that an unfinished text can be drawn."""

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
from rich.style import Style
from rich.syntax import ANSISyntaxTheme
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import AMBER, BLUE, GREEN, PURPLE, RED, TEAL, theme
from llmcli.views.terminal.sanitize import visible

Colors = Literal["standard", "256", "truecolor"] | None
"""The terminal's color palette; None is text without any style."""

_CODE_THEME = ANSISyntaxTheme(
    {
        ("Comment",): Style(dim=True),
        ("Keyword",): Style.parse(f"bold {BLUE}"),
        ("Keyword", "Type"): Style.parse(TEAL),
        ("Operator", "Word"): Style.parse(f"bold {BLUE}"),
        ("Name", "Attribute"): Style.parse(TEAL),
        ("Name", "Builtin"): Style.parse(TEAL),
        ("Name", "Class"): Style.parse(f"underline {GREEN}"),
        ("Name", "Decorator"): Style.parse(PURPLE),
        ("Name", "Function"): Style.parse(GREEN),
        ("Name", "Tag"): Style.parse(BLUE),
        ("Literal", "Number"): Style.parse(PURPLE),
        ("Literal", "String"): Style.parse(AMBER),
        ("Generic", "Deleted"): Style.parse(RED),
        ("Generic", "Inserted"): Style.parse(GREEN),
        ("Generic", "Heading"): Style(bold=True),
    }
)
"""Colors of code, on the terminal's own background."""


@dataclass(frozen=True)
class MarkdownBlock:
    """A paragraph, list, table, ... at the top level of a text."""

    tokens: tuple[Token, ...]
    line: int
    """Its first line in the text, counted from 0."""


def blocks(text: str) -> list[MarkdownBlock]:
    """Parse `text` into its top-level blocks.

    HTML and reference definitions are shown as text: later input must not change how earlier text is displayed.
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
    """`block`, or a shorter block with at least `lines` lines that renders the same end.

    The columns of a shortened table may have other widths.
    """
    first, tokens = block.tokens[0], block.tokens
    if first.type in ("fence", "code_block"):
        code = first.content.rstrip().split("\n")
        return block if len(code) <= lines else _short(block, first.copy(content="\n".join(code[-lines:])))
    part = {"bullet_list_open": "list_item_open", "ordered_list_open": "list_item_open", "table_open": "tr_open"}
    # Items of nested lists have a higher level.
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
    """Render the blocks `found` at `width` columns, with a blank line between blocks."""
    lines: list[str] = []
    for block in found:
        own = lines_of(_Markdown(block.tokens), width, colors)
        if lines and own:
            lines.append("")
        lines += own
    return lines


def lines_of(view: RenderableType, width: int, colors: Colors = None) -> list[str]:
    """Render `view` into lines without blank ones at either end; each line has its escape sequences complete."""
    console = Console(
        file=io.StringIO(),
        width=max(width, 1),
        color_system=colors,
        force_terminal=True,
        legacy_windows=False,
        theme=theme(),
        markup=False,
        emoji=False,
        highlight=False,
    )
    options = console.options.update(height=None)
    lines = [
        # On very narrow screens Rich's lines can exceed the width.
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
    """A heading aligned to the left instead of centered: a heading that is still growing must not move."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("", justify="left").append_text(self.text)


class _Table(TableElement):
    """A table that breaks long words instead of cutting them off."""

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
        # Show the URL of each link: a hidden one could lead anywhere.
        super().__init__("", hyperlinks=False)
        # Rich annotates a name, and passes any theme on.
        self.code_theme = _CODE_THEME  # type: ignore[assignment]
        self.parsed = list(tokens)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def _clean(tokens: Sequence[Token]) -> Iterator[Token]:
    """Sanitize `tokens`, keep line breaks as written, and replace images with their text and URL."""
    for token in tokens:
        token.content = visible(token.content)
        for name in ("href", "src", "title"):
            if name in token.attrs:
                token.attrs[name] = visible(str(token.attrs[name]))
        if token.type == "softbreak":
            # Verses seldom have Markdown's hard line breaks; keep the lines as written.
            token.type, token.tag = "hardbreak", "br"
        elif token.type == "image":
            token.type, token.tag = "text", ""
            token.content = f"{token.content} ({token.attrs.get('src', '')})".strip()
            token.children = None
        if token.children:
            token.children = list(_clean(token.children))
        yield token


def _trimmed(line: list[Segment]) -> list[Segment]:
    """Remove invisible spaces at the end of `line`, which would wrap when the window becomes narrower."""
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
