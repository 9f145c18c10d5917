"""The exact prompt tokens: every token with its id, control tokens marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.token_table import token_label


def prompt_token_table(tokens: Sequence[tuple[int, bytes, bool]]) -> Table:
    """One row per token; `tokens` holds id, bytes, and whether it is a control token."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("id", justify="right")
    table.add_column("token", overflow="fold")
    for index, (token, data, control) in enumerate(tokens):
        label = Text(token_label(data), style="bold reverse" if control else "")
        if control:
            label.append("  control", style="not bold not reverse dim")
        table.add_row(str(index), str(token), label)
    return table
