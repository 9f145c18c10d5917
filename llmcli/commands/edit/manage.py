"""`llm edit list`, `show` and `rm`: manage the edits in the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared.completion import EDITS
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from llmcli.checkpoint.edits.edit_file import Edit

_Json: TypeAlias = Annotated[ViewOptions, only("as_json")]
Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME|FILE", autocompletion=EDITS, help="A name that `llm edit list` shows, or a file.")
]


@with_options
def list_edits(*, view_options: _Json) -> None:
    """List the saved edits, latest first."""
    from llmcli.checkpoint.edits.store import edit_files

    rows = [(path, found) for path in edit_files() if (found := _read(path)) is not None]
    if view_options.as_json:
        terminal.write_line(json_text([_as_json(path, edit) for path, edit in rows], indent=2))
        return
    if not rows:
        terminal.note("No edit has been kept yet.")
        return
    from llmcli.views.reports.edit import edits_table

    table = edits_table([(path.stem, edit.model, edit.prompt, edit.target, edit.layers) for path, edit in rows])
    terminal.console_out().print(table)


@with_options
def show_edit(name: Name, *, view_options: _Json) -> None:
    """Show what an edit changes, in which model."""
    from llmcli.checkpoint.edits.edit_file import read_edit
    from llmcli.checkpoint.edits.store import find_edit

    path = find_edit(name)
    edit = read_edit(path)
    about = _as_json(path, edit)
    if view_options.as_json:
        terminal.write_line(json_text(about))
        return
    from llmcli.views.reports.edit import edit_lines

    lengths = ", ".join(
        f"block {update.layer}: {len(update.write)} x {len(update.read)}, "
        f"norm {float(update.read.norm() * update.write.norm()):.3g}"
        for update in edit.updates
    )
    facts = [
        ("prompt", edit.prompt),
        ("subject", edit.subject),
        ("new answer", edit.target),
        ("update", lengths),
        ("model", edit.model),
        ("weights", edit.model_sha256),
        ("file", f"{path}, {path.stat().st_size} bytes"),
    ]
    terminal.console_out().print(edit_lines(facts))


def remove(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE]", autocompletion=EDITS, help="An edit. Default: the latest one."),
    ] = None,
) -> None:
    """Delete an edit. The model's files are unchanged."""
    from llmcli.checkpoint.edits.edit_file import read_edit
    from llmcli.checkpoint.edits.store import edit_files, find_edit, remove_edit

    if name is None:
        kept = edit_files()
        if not kept:
            raise UsageError("No edit is kept, so there is none to delete.")
        path = kept[0]
    else:
        path = find_edit(name)
        # The argument can name any file: check that it is an edit before deleting it.
        read_edit(path)
    remove_edit(path)
    terminal.note(f"Removed {path}.")


def _read(path: Path) -> Edit | None:
    from llmcli.checkpoint.edits.edit_file import read_edit

    try:
        return read_edit(path)
    except LlmcliError as error:
        terminal.note(str(error))
        return None


def _as_json(path: Path, edit: Edit) -> dict[str, object]:
    return {
        "name": path.stem,
        "file": str(path),
        "model": edit.model,
        "model_sha256": edit.model_sha256,
        "prompt": edit.prompt,
        "subject": edit.subject,
        "target": edit.target,
        "layers": list(edit.layers),
    }
