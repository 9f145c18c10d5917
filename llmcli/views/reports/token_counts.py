"""The tokens of replies by day and model: a table and its JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.to_json import json_line

if TYPE_CHECKING:
    from llmcli.conversations.token_counts import TokenCount

SCHEMA = "llmcli.stats/1"


def counts_table(days: Sequence[TokenCount], models: Sequence[TokenCount], total: TokenCount) -> str:
    """One row for each day and model; below them the models over all days, and the total if there are several."""
    from rich.cells import cell_len

    rows: list[tuple[str, ...]] = [("DAY", "MODEL", "REPLIES", "PROMPT", "WRITTEN")]
    rows += map(_row, [*days, *models, *([total] if len(models) > 1 else [])])
    if terminal.is_terminal(sys.stdout):
        # Before the column widths are computed.
        rows = [(day, visible(model), *numbers) for day, model, *numbers in rows]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for day, model, *numbers in rows:
        name = model + " " * (widths[1] - cell_len(model))
        cells = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
        lines.append("  ".join([day.ljust(widths[0]), name, *cells]))
    return "\n".join(lines)


def counts_json(days: Sequence[TokenCount], models: Sequence[TokenCount], total: TokenCount) -> str:
    """The same as one line of JSON."""
    return json_line(SCHEMA, {"days": _objects(days), "models": _objects(models), "total": _objects([total])[0]})


def _row(count: TokenCount) -> tuple[str, ...]:
    sizes = (count.replies, count.prompt_tokens, count.generated_tokens)
    return (count.day or "all", count.model if count.model is not None else "all", *(f"{size:,}" for size in sizes))


def _objects(counts: Sequence[TokenCount]) -> list[dict[str, object]]:
    return [{name: value for name, value in asdict(count).items() if value is not None} for count in counts]
