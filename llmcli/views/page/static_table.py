"""Tables for readers without JavaScript, as HTML: the figures of a view, every text escaped."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.token_table import percent, token_label

_LONGEST = 60
_MOST_KEYS = 5
_READ_COLUMNS = ("sink", "self", "read")


def tokens(value: Mapping[str, Any]) -> str:
    """The tokens of a reply or of a scored text: the text, and a row for each token."""
    found: Sequence[Mapping[str, Any]] = value["tokens"]
    # Only a reply has its text as a whole; elsewhere a character can be spread over several tokens.
    data = b"".join(base64.b64decode(token["bytes"]) for token in found if "text" not in value)
    text = value.get("text") or data.decode("utf-8", errors="replace")
    columns = ("#", "token", "model", "sampled", "rank", "entropy in bits", "could have been", "read")
    rows = [_token_row(token) for token in found]
    used = [number for number in range(len(columns)) if number < 2 or any(row[number] for row in rows)]
    return f'<p class="text">{html.escape(visible(text))}</p>' + table(
        [columns[number] for number in used], ([row[number] for number in used] for row in rows)
    )


def attention(value: Mapping[str, Any]) -> str:
    """What each token read, and what each block read for a single position."""
    found: Sequence[Mapping[str, Any]] = value["tokens"]
    rows = [[str(row["position"]), label(found[row["position"]]), *_reading(row)] for row in value["rows"]]
    blocks = [[str(one["block"]), *_reading(one["row"])] for one in value["blocks"]]
    shown = table(("#", "token", *_READ_COLUMNS), rows)
    return shown + (table(("block", *_READ_COLUMNS), blocks) if blocks else "")


def pattern(value: Mapping[str, Any]) -> str:
    """The keys that each query of a head read most."""
    found: Sequence[Mapping[str, Any]] = value["tokens"]
    rows = []
    for position, weights in zip(value["positions"], value["pattern"], strict=True):
        rows.append([str(position), label(found[position]), _strongest(found, weights[: position + 1])])
    caption = f"<p>block {int(value['layer'])}, head {int(value['head'])}</p>"
    return caption + table(("#", "token", "attends to"), rows)


def all_heads(value: Mapping[str, Any]) -> str:
    """What the last token read through each head."""
    found: Sequence[Mapping[str, Any]] = value["tokens"]
    rows = []
    for head in value["heads"]:
        name, last = f"{head['layer']}.{head['head']}", head["pattern"][-1]
        rows.append([name, _strongest(found, last)])
    return table(("head", "the last token attends to"), rows)


def heads(value: Mapping[str, Any]) -> str:
    """The four scores of each head."""
    kinds = ("previous", "duplicate", "induction", "sink")
    rows = [
        [f"{head['layer']}.{head['head']}", *("" if head[kind] is None else percent(head[kind]) for kind in kinds)]
        for head in value["heads"]
    ]
    return table(("head", *kinds), rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped here."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="static"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def label(token: Mapping[str, Any]) -> str:
    """A token in one line, from its bytes where it has them; long ones are cut."""
    data = base64.b64decode(token["bytes"]) if "bytes" in token else str(token.get("text", "")).encode()
    shown = token_label(data[: 4 * _LONGEST])
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"


def _strongest(found: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> str:
    best = sorted(range(len(weights)), key=lambda key: weights[key], reverse=True)[:_MOST_KEYS]
    return ", ".join(f"#{key} {label(found[key])} {percent(weights[key])}" for key in best)


def _reading(row: Mapping[str, Any]) -> list[str]:
    read = ", ".join(f"{label({'text': one['text']})} {percent(one['weight'])}" for one in row["read"])
    return [percent(row["sink"]), percent(row["self"]), read]


def _token_row(token: Mapping[str, Any]) -> list[str]:
    entropy = token.get("entropy")
    return [
        str(token["index"]),
        label(token),
        _probability(token),
        "" if token.get("sampled_prob") is None else percent(token["sampled_prob"]),
        str(token.get("rank") or ""),
        "" if entropy is None else f"{entropy / math.log(2):.1f}",
        ", ".join(f"{label(one)} {_probability(one)}" for one in token.get("top", ())),
        ", ".join(
            f"{label({'text': one['text']})} {percent(one['weight'])}"
            for one in (token.get("attention") or {}).get("read", ())
        ),
    ]


def _probability(token: Mapping[str, Any]) -> str:
    logprob = token.get("logprob")
    return "" if logprob is None else percent(math.exp(logprob))
