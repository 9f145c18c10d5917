"""A table of settings and their sources."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.sanitize import visible


def settings_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """One row per setting: name, value, kind of source (flag, variable, file, default), and which one."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for name, value, source, where in rows:
        style = "dim" if source == "default" else ""
        origin = f"{source} {visible(where)}" if where else source
        table.add_row(Text(name, style=style), Text(visible(value), style=style), Text(origin, style=style))
    return table
