"""A text as its tokens: the pieces in a row, and a table with id, bytes and kind of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.token_table import token_label

if TYPE_CHECKING:
    from llmcli.inspection.evaluation.tokenization import Tokenization

SCHEMA = "llmcli.tokens/1"
NOTE = "Each piece between bars is one token, which the model reads and writes as a whole. ␣ is a space."


def tokenization_view(result: Tokenization) -> Group:
    """The pieces separated by bars, then one row per token, then counts and characters per token."""
    pieces = Text("│".join(token_label(token.bytes) for token in result.tokens), overflow="fold")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("id", justify="right")
    table.add_column("token", overflow="fold")
    table.add_column("bytes", style="dim", overflow="fold")
    table.add_column("")
    for token in result.tokens:
        table.add_row(
            str(token.index),
            str(token.id),
            Text(token_label(token.bytes), style="bold" if token.control else ""),
            token.bytes.hex(" "),
            "control" if token.control else "",
        )
    plain = sum(not token.control for token in result.tokens)
    ratio = f", {result.characters / plain:.1f} characters a token" if plain else ""
    counts = ((len(result.tokens), "token"), (result.characters, "character"), (result.bytes, "byte"))
    summary = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return Group(pieces, table, Text(summary + ratio, style="dim"))
