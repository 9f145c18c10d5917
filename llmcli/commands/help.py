"""`llm help`: the pages of the manual, the help of commands, and a search through both."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llmcli.commands.shared.completion import TOPICS
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.docs import pages
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.views.reply.markdown_blocks import Colors

_WIDEST = 100
"""Columns; longer lines of prose are hard to follow."""
_HINT = (
    "llm help TOPIC shows a page, llm help COMMAND what a command does, llm help --FLAG the entry of a flag, llm help "
    "WORD the sections that contain it."
)


@with_options
def help_(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC|COMMAND|--FLAG|WORD]...",
            autocompletion=TOPICS,
            help="What to look up. Default: the list of topics.",
        ),
    ] = None,
    pager: Annotated[
        bool,
        typer.Option("--pager/--no-pager", help="On a terminal, show a page longer than the screen in $PAGER."),
    ] = True,
    *,
    terminal_options: Annotated[TerminalOptions, only("color")],
) -> None:
    """Show the manual: a page, a command's flags, a flag's entry, or all sections that contain a word."""
    asked = " ".join(words or ())
    if not asked:
        terminal.write_line(_topics())
        return
    command = _command(context.find_root().command, words or [])
    if asked in pages.TOPICS:
        _show(pages.page(asked), pager=pager)
        if command:
            terminal.note(f"The flags of the command: llm {asked} --help.")
    elif command:
        context.find_root().command.main([*(words or []), "--help"], prog_name="llm", standalone_mode=False)
        about = pages.topics_about(asked)
        if about:
            terminal.note("More about it: " + ", ".join(f"llm help {topic}" for topic in about[:3]) + ".")
    else:
        found = pages.about_flag(asked) or pages.search(asked)
        if not found:
            raise UsageError(f"No page of the manual contains {asked!r}. llm help lists the topics.")
        _show("\n".join(f"*llm help {section.topic}*\n\n{section.text}" for section in found), pager=pager)


def _topics() -> str:
    """The topics with a line each, wrapped to the width of a terminal."""
    import textwrap

    columns = terminal.size(sys.stdout).columns if terminal.is_terminal(sys.stdout) else sys.maxsize
    indent = " " * (max(map(len, pages.TOPICS)) + 2)
    lines = [
        textwrap.fill(pages.summary(topic), columns, initial_indent=topic.ljust(len(indent)), subsequent_indent=indent)
        for topic in pages.TOPICS
    ]
    return "\n".join([*lines, "", textwrap.fill(_HINT, columns)])


def _command(root: Any, words: list[str]) -> Any:
    """The command or group that `words` name, or None."""
    found = root
    for word in words:
        found = getattr(found, "commands", {}).get(word)
    return found


def _show(text: str, *, pager: bool) -> None:
    """Draw Markdown on a terminal; write it as it is into a pipe or file."""
    if not terminal.is_terminal(sys.stdout):
        terminal.write_line(text.rstrip("\n"))
        return
    from llmcli.views.reply.markdown_blocks import blocks, markdown_lines
    from llmcli.views.terminal import pager as pager_view

    colors = cast("Colors", terminal.console_out().color_system)
    width = min(terminal.size(sys.stdout).columns, _WIDEST)
    lines = markdown_lines(blocks(pages.for_terminal(text)), width, colors)
    pager_view.show(lines, paged=pager and terminal.can_redraw(sys.stdout))
