"""Shared by inspect commands: read and encode the text, choose positions, and present the result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared.options.flags import SHOW, flag, is_flag_given
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.page_file import viewer_page, write_page
from llmcli.commands.shared.prompt_input import argument_text, read_prompt
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType


# Of a text longer than _SHORT tokens, only the last _LAST positions are shown by default.
_SHORT, _LAST = 40, 8

Position: TypeAlias = Annotated[
    list[int] | None,
    flag(
        "--position",
        env=False,
        metavar="N",
        panel=SHOW,
        help="Only this token, counted from 0, or from the end if negative. Repeatable.",
    ),
]


def check_template(invocation: typer.Context, *, chat: bool) -> None:
    """Raise `UsageError` for --chat-template on the command line without --chat; from a settings file it is ignored."""
    if not chat and is_flag_given(invocation, "chat_template"):
        raise UsageError("--chat-template is for --chat, and the text is raw.")


def read_text(argument: str | None) -> str:
    """The text argument, or piped text if the argument is missing or "-".

    Raises:
        UsageError: there is no text.
    """
    if argument is None or argument == "-":
        return read_prompt(argument)
    if not argument:
        raise UsageError("The text is empty. Give a text, or pipe one in.")
    return argument_text(argument, "The text")


def positions(asked: Sequence[int] | None, length: int, *, default: Sequence[int]) -> list[int]:
    """The requested positions in a text of `length` tokens, ascending and from 0; `default` if none are requested.

    Raises:
        UsageError: a position is outside the text.
    """
    if not asked:
        return list(default)
    for position in asked:
        if not -length <= position < length:
            raise UsageError(f"There is no token {position}: the text has {length}, numbered from 0.")
    return sorted({position % length for position in asked})


def last_positions(length: int) -> range:
    """The default positions of a view in a text of `length` tokens: all of them, or the last ones of a long text."""
    return range(0 if length <= _SHORT else length - _LAST, length)


def present(
    view: RenderableType,
    *,
    schema: str,
    value: object,
    output: ViewOptions,
    note: str | None = None,
    explanation: str | None = None,
    title: str | None = None,
    about: Sequence[tuple[str, object]] = (),
    page_value: object = None,
) -> None:
    """Write a result: to stdout as the view or as JSON, and to the requested files.

    `title` is the name of a command outside `llm inspect`. An HTML page names the settings `about`, of which "model"
    and "text" are its title, and shows `page_value`, for which `value` is the default. `explanation` is printed above
    the view. `note` is one line on how to read the view: in files it stands below the view; on a terminal it goes to
    stderr, unless --quiet.

    Raises:
        NotFiniteError: a number of `value` is NaN.
    """
    from rich.console import Group
    from rich.text import Text

    from llmcli.views.terminal.to_json import has_nan, json_value

    if has_nan(value):
        # The engine checks logits only, not values computed from inside the model.
        from llmcli.model.finite import not_finite

        raise not_finite()
    if explanation:
        view = Group(Text(explanation), Text(), view)
    whole = Group(view, Text(note, style="dim")) if note else view
    title = title or f"llm inspect {schema.split('.')[1].split('/')[0]}"
    page = None
    if output.wants_page:
        page = viewer_page(json_value(schema, value if page_value is None else page_value), about, note)
    write_files(whole, title=title, output=output, page=page)
    if output.as_json:
        from llmcli.views.terminal.to_json import json_line

        terminal.write_line(json_line(schema, value))
        return
    terminal.console_out().print(view)
    if note and terminal.is_terminal(sys.stdout):
        terminal.note(note)


def write_files(view: RenderableType, *, title: str, output: ViewOptions, page: str | None = None) -> None:
    """Write a view to the requested files; the HTML file is `page`, or without one the view as on a terminal."""
    from llmcli.files import replace_text

    if output.wants_page:
        if page is None:
            from llmcli.views.terminal.export import as_html

            page = as_html(view)
        write_page(page, output.html, show=output.show_page)
    if output.svg is not None:
        from llmcli.views.terminal.export import as_svg

        replace_text(output.svg, as_svg(view, title))
