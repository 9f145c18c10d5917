"""Attention summary, one row per token (shares on the sink, itself and other tokens), and one head's pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.terminal.fit import shortened
from llmcli.views.widgets.heatmap import HeatMap, scale_legend
from llmcli.views.widgets.items import Items
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.engine.events import AttentionRow
    from llmcli.inspection.attention.all_heads import HeadPatterns
    from llmcli.inspection.attention.pattern import Pattern
    from llmcli.inspection.attention.summary import AttentionSummary, BlockReading

SCHEMA = "llmcli.attention/1"
PATTERN_SCHEMA = "llmcli.attention-pattern/1"
HEADS_SCHEMA = "llmcli.attention-heads/1"
NOTE = "sink: attention parked on the first token. self: on the token itself. read: how the rest is spread."
HEADS_NOTE = "What the last token attends to in each head, as block.head. --html shows the patterns of all tokens."
PATTERN_NOTE = "Each row shows how one token spreads its attention in this head; every row sums to 1."
# A pattern of more tokens than this is shown as a table instead of a map.
_LARGEST_MAP = 60
_SHADES = "░▒▓█"
# Lower bounds of the darker shades.
_STEPS = (0.1, 0.25, 0.5)
# Longer words, lines and messages are cut to this many cells.
_LONGEST = 32


def attention_view(summary: AttentionSummary) -> RenderableType:
    """One row per position; for a single position also one row per block."""
    labels = [token_label(token.bytes) for token in summary.tokens]
    table = _table("token", "before")
    for reading in summary.rows:
        at = reading.position
        follows = labels[at + 1] if at + 1 < len(labels) else "?"
        table.add_row(str(at), Text(labels[at]), Text(follows, style="bold"), *_cells(reading))
    if not summary.blocks:
        return table
    return Group(table, Text(), _blocks(summary.blocks))


def read_table(said: Sequence[tuple[int, bytes, AttentionRow]]) -> Table:
    """One row per generated token: what it attended to. `said` holds (index, bytes, attention)."""
    table = _table("said")
    for index, data, row in said:
        table.add_row(str(index), Text(token_label(data), style="bold"), *_cells(row))
    return table


def pattern_view(pattern: Pattern) -> RenderableType:
    """The pattern as a heat map of queries by keys; for a long text, a table of each query's strongest keys."""
    labels = [token_label(token.bytes) for token in pattern.tokens]
    title = Text(f"block {pattern.layer}, head {pattern.head}", style="bold")
    if len(labels) <= _LARGEST_MAP:
        rows = [row[: at + 1] for at, row in zip(pattern.positions, pattern.pattern, strict=True)]
        width = max(len(str(len(labels))), 2)

        def label(number: int) -> str:
            return f"{pattern.positions[number]:>{width}} {labels[pattern.positions[number]][:12]:<12}"

        heat = HeatMap(rows, row_label=label, cell_width=2)
        how = Text("rows: the token that attends (query); columns: the token attended to (key)", style="dim")
        return Group(title, heat, scale_legend(0, 1, "of the row's attention"), how)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("attends to", overflow="fold")
    for at, row in zip(pattern.positions, pattern.pattern, strict=True):
        best = sorted(range(at + 1), key=lambda key: row[key], reverse=True)[:5]
        table.add_row(str(at), Text(labels[at]), Items([_item(labels[key], row[key], f"#{key} ") for key in best]))
    return Group(title, table)


def heads_view(found: HeadPatterns) -> RenderableType:
    """One row per head: what the last token attends to."""
    labels = [token_label(token.bytes) for token in found.tokens]
    last = len(labels) - 1
    table = _table()
    table.columns[0].header = "head"
    for one in found.heads:
        row = one.pattern[-1]
        best = sorted(range(1, last), key=row.__getitem__, reverse=True)[:5]
        table.add_row(
            f"{one.layer}.{one.head}",
            Text(_whole_percent(row[0]), "dim"),
            Text(_whole_percent(row[last] if last else 0.0), "dim"),
            Items([_item(labels[key], row[key], f"#{key} ") for key in best if row[key] > 0]),
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    table.add_column("sink", justify="right")
    table.add_column("self", justify="right")
    table.add_column("read", overflow="fold")
    return table


def _blocks(blocks: Sequence[BlockReading]) -> Table:
    table = _table()
    table.columns[0].header = "block"
    for reading in blocks:
        table.add_row(str(reading.block), *_cells(reading.row))
    return table


def _cells(row: AttentionRow) -> tuple[Text, Text, Items]:
    read = [_item(shortened(token_label(item.text.encode()), _LONGEST), item.weight) for item in row.read]
    return Text(_whole_percent(row.sink), "dim"), Text(_whole_percent(row.self), "dim"), Items(read)


def _item(label: str, weight: float, before: str = "") -> Text:
    return Text.assemble(
        (before, "dim"),
        (_SHADES[sum(weight >= step for step in _STEPS)], BLUE),
        (label, "bold" if weight >= _STEPS[1] else ""),
        (f" {percent(weight) if weight < 0.01 else _whole_percent(weight)}", "dim"),
    )


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}%"
