"""Tables of what happens inside a model, for readers without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcli.views.page.static_table import label, table
from llmcli.views.widgets.token_table import percent

# Approximate limit of the columns of the table of the lens.
_COLUMNS = 12


def lens(value: Mapping[str, Any]) -> str:
    """For each position the most probable token after some of the blocks, always including the last."""
    positions: Sequence[Mapping[str, Any]] = value["lens"]
    last = len(positions[0]["layers"]) - 1
    some = [*range(0, last, -(-last // _COLUMNS) or 1), last]
    rows = [
        [
            str(one["position"]),
            label(value["tokens"][one["position"]]),
            *(f"{label(best)} {percent(best['prob'])}" for best in (one["layers"][layer]["top"][0] for layer in some)),
            "" if one["leads_from"] is None else _after(one["leads_from"]),
        ]
        for one in positions
    ]
    return table(("#", "token", *map(_after, some), "leads from"), rows)


def _after(layer: int) -> str:
    """The block after which a layer of the lens is read."""
    return f"block {layer - 1}" if layer else "emb"
