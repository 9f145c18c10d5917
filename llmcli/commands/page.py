"""`llm page`: an HTML page from stored JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcli.commands.shared.options.flags import OUTPUT, flag, only, with_options
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.page_file import viewer_page, write_page
from llmcli.commands.shared.prompt_input import read_file_text, read_stdin
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal


@with_options
def page(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.json|-", help="What --json of another command printed. -: piped JSON.")
    ],
    *,
    out: Annotated[
        Path | None,
        flag(
            "--out",
            "-o",
            env=False,
            metavar="FILE",
            panel=OUTPUT,
            help="The page. Default: FILE.html beside FILE.json.",
        ),
    ] = None,
    view_options: Annotated[ViewOptions, only("show_page")],
    terminal_options: Annotated[TerminalOptions, only("color", "quiet", "encoding")],
) -> None:
    """Make the HTML page of stored JSON, as --html of the command that printed it does."""
    piped = str(file) == "-"
    if piped and out is None and not view_options.show_page:
        raise UsageError("Piped JSON has no file name: say where to write the page with --out, or give --open.")
    value = _read(file)
    known: list[tuple[str, object]] = [("model", _model(value)), ("text", value.get("prompt"))]
    try:
        made = viewer_page(value, [*known, *([] if piped else [("file", file.name)])])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UsageError(
            f"{file} is not what --json prints for its schema: a field is missing, or is of another kind."
        ) from None
    if made is None:
        from llmcli.views.page.drawings import SCHEMAS

        raise UsageError(
            f"There is no page for the JSON in {file}; there are pages for a reply and for {', '.join(SCHEMAS[1:])}."
        )
    path = file.with_suffix(".html") if out is None and not piped else out
    write_page(made, path, show=view_options.show_page)
    if not view_options.show_page:
        terminal.note(f"The page is in {path}.")


def _model(value: dict[str, Any]) -> object:
    """The model that an object names, or both of a comparison; None if it names none."""
    both = value.get("models")
    return " and ".join(map(str, both)) if isinstance(both, list) else value.get("model", value.get("name"))


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UsageError: it cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(read_stdin() if str(file) == "-" else read_file_text(file))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{file} has no JSON object; give a file with what --json of another command printed.")
    return value
