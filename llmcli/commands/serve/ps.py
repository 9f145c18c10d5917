"""`llm ps`: the servers that hold a model."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.sizes import size
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.client.control import ServerStatus


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the running servers of llm serve: what they hold, and what they do."""
    from llmcli.client.control import server_statuses

    found = server_statuses()
    if as_json:
        terminal.write_line(json_text([_as_json(status) for status in found], indent=2))
    elif found:
        terminal.write_line(_table(found))
    else:
        terminal.note("No server is running. llm serve starts one.")


def _as_json(status: ServerStatus) -> dict[str, object]:
    state = status.state
    return {
        "name": state.name,
        "model": state.model,
        "pid": state.pid,
        "started": state.started,
        "path": state.path,
        "socket": state.socket,
        "host": state.host,
        "port": state.port,
        "memory_bytes": status.memory_bytes,
        "idle_s": status.idle_s,
        "busy": status.busy,
        "requests": status.requests,
    }


def _table(found: Sequence[ServerStatus]) -> str:
    from rich.cells import cell_len

    rows: list[tuple[str, ...]] = [("NAME", "MODEL", "PID", "MEMORY", "PORT", "UP", "IDLE", "REQUESTS")]
    for status in found:
        state = status.state
        rows.append(
            (
                state.name,
                state.model,
                str(state.pid),
                "?" if status.memory_bytes is None else size(status.memory_bytes),
                "-" if state.port is None else str(state.port),
                _duration(time.time() - state.started),
                "?" if status.idle_s is None else "busy" if status.busy else _duration(status.idle_s),
                "?" if status.requests is None else str(status.requests),
            )
        )
    if terminal.is_terminal(sys.stdout):
        rows = [(visible(name), visible(model), *rest) for name, model, *rest in rows]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _duration(seconds: float) -> str:
    """A time in its largest whole unit: 12 s, 5 min, 3 h or 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0) // 1:.0f} s"
