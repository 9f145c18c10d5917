"""Tables of what happens inside a model, for readers without JavaScript."""

from __future__ import annotations

import html
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


def token(value: Mapping[str, Any]) -> str:
    """The candidates, and the strongest heads and neurons."""
    found = value["attribution"]
    candidates = table(("could be", "probability"), ([label(one), percent(one["prob"])] for one in value["candidates"]))
    heads = table(
        ("head", "logit"), ([f"{one['block']}.{one['head']}", f"{one['logit']:+.2f}"] for one in found["heads"])
    )
    return candidates + heads + _neurons(found["neurons"])


def neurons(value: Mapping[str, Any]) -> str:
    """The strongest neurons, and the tokens that they promote and suppress."""
    target = f"{label(value['target'])} {percent(value['target']['prob'])} after {label(value['token'])}"
    return f"<p>{html.escape(target)}</p>" + _neurons(value["neurons"])


def neuron(value: Mapping[str, Any]) -> str:
    """The activation of a neuron on each token."""
    rows = [
        [str(one["position"]), label(one["token"]), "" if one["activation"] is None else f"{one['activation']:+.2f}"]
        for one in value["activations"]
    ]
    return table(("#", "token", "fires"), rows)


def experts(value: Mapping[str, Any]) -> str:
    """The experts of each token in each block, the strongest first."""
    rows = [
        [
            str(position),
            label(token),
            *(" ".join(str(one["expert"]) for one in layer["routing"][position]) for layer in value["layers"]),
        ]
        for position, token in enumerate(value["tokens"])
    ]
    return table(("#", "token", *(f"block {layer['layer']}" for layer in value["layers"])), rows)


def _neurons(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            ".".join(str(one[part]) for part in ("block", "expert", "neuron") if one[part] is not None),
            f"{one['logit']:+.2f}",
            f"{one['activation']:+.1f}",
            " ".join(map(label, one["promotes"])),
            " ".join(map(label, one["suppresses"])),
        ]
        for one in found
    ]
    return table(("neuron", "logit", "fires", "promotes", "suppresses"), rows)
