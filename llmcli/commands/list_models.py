"""`llm list`: the models on this machine that can be used by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.errors import LlmcliError, UsageError
from llmcli.sizes import size
from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.hub.resolve import LocalModel


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the models to use by name: downloaded ones, complete ones in the hub cache, and aliases."""
    from llmcli.hub.aliases import aliases
    from llmcli.hub.resolve import local_models

    models = local_models()
    try:
        short = aliases()
    except UsageError as error:
        terminal.note(str(error))
        short = {}
    if as_json:
        names = _names_by_path(short)
        entries = [{**_as_json(model), "aliases": names.get(model.path, [])} for model in models]
        terminal.write_line(json.dumps(entries, indent=2))
    elif models or short:
        terminal.write_line(_table(models, short))
    else:
        terminal.note("No models here yet; `llm pull` fetches the starter model.")


def _names_by_path(short: Mapping[str, str]) -> dict[Path, list[str]]:
    """The aliases of each model on this machine."""
    from llmcli.hub.resolve import resolve

    names: dict[Path, list[str]] = {}
    for name, target in short.items():
        with suppress(LlmcliError):
            names.setdefault(resolve(target, fetch=False), []).append(name)
    return names


def _as_json(model: LocalModel) -> dict[str, object]:
    return {
        "name": model.name,
        "path": str(model.path),
        "bytes": model.bytes,
        "modified": datetime.fromtimestamp(model.modified, timezone.utc).isoformat(timespec="seconds"),
        "kind": model.kind,
        "place": model.place,
    }


def _table(models: list[LocalModel], short: Mapping[str, str]) -> str:
    from rich.cells import cell_len

    rows = [("NAME", "SIZE", "KIND", "WHERE")]
    rows += [(model.name, size(model.bytes), model.kind, f"{model.place}: {_short(model.path)}") for model in models]
    rows += [(name, "", "alias", _short(Path(target))) for name, target in short.items()]
    if terminal.is_terminal(sys.stdout):
        # Before the column widths are computed.
        rows = [(visible(name), nbytes, kind, visible(where)) for name, nbytes, kind, where in rows]
    columns = terminal.size(terminal.stdout()).columns if terminal.is_terminal(sys.stdout) else terminal.MOST_COLUMNS
    widths = [max(cell_len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for name, nbytes, kind, where in rows:
        name_padding, size_padding, kind_padding = (
            " " * (width - cell_len(cell)) for width, cell in zip(widths, (name, nbytes, kind), strict=True)
        )
        line = f"{name}{name_padding}  {size_padding}{nbytes}  {kind}{kind_padding}"
        # A path is not broken, so that it can be copied.
        lines.append(f"{line}  {where}" if cell_len(line) + 2 + cell_len(where) <= columns else f"{line}\n    {where}")
    return "\n".join(lines)


def _short(path: Path) -> str:
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):  # not in the home directory, or there is none
        return str(path)
