"""Tables for readers without JavaScript: compared models, causal traces, hidden words, needles and costs."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmcli.sizes import size
from llmcli.views.inspect.cost import flops
from llmcli.views.page.static_table import label, table
from llmcli.views.reports.show import count
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.numbers import bits
from llmcli.views.widgets.token_table import percent

_KINDS = (("hidden", "residual stream"), ("feed_forward", "feed-forward"), ("attention", "attention"))
_CASES = ("before", "hidden", "removed")


def comparison(value: Mapping[str, Any]) -> str:
    """The compared tokens, and what each model writes."""
    rows = [
        [
            str(token["index"]),
            label(token),
            _bits(token["kl"], ".4f"),
            *(_probability(token[side]["logprob"]) for side in ("first", "second")),
            *(
                f"{label(one['choice'])} {_probability(one['choice_logprob'])}"
                for one in (token["first"], token["second"])
            ),
        ]
        for token in value["tokens"]
        if token["first"] is not None
    ]
    texts = [
        _paragraph(f"{letter} {model}: {said['text']}")
        for letter, model, said in zip("AB", value["models"], value["continuations"], strict=True)
    ]
    columns = ("#", "token", "KL in bits", "in A", "in B", "first choice of A", "first choice of B")
    return table(columns, rows) + "".join(texts)


def trace(value: Mapping[str, Any]) -> str:
    """The probability of the answer with each state restored, as one table for each kind of state."""
    found: Sequence[Mapping[str, Any]] = value["tokens"]
    first = min(value["subject"])
    answer, noisy = value["answer"], percent(value["corrupted"])
    parts = [_paragraph(f"answer {label(answer)} {percent(answer['prob'])}, {noisy} with noise on the subject (*)")]
    for field, title in _KINDS:
        rows = [
            [("*" if at in value["subject"] else "") + label(found[at]), *(percent(one) for one in value[field][at])]
            for at in range(first, len(found))
        ]
        blocks = (str(block) for block in range(len(value[field][first])))
        parts += [_paragraph(f"{title} restored, by block"), table(("token", *blocks), rows)]
    return "".join(parts)


def without(value: Mapping[str, Any]) -> str:
    """The probability of each token of the answer with the part, with it hidden, and with it removed."""
    rows = [
        [label(token), *("" if token[case] is None else percent(token[case]) for case in _CASES)]
        for token in value["answer"]
    ]
    rows.append(["all: surprise in bits", *(_surprise(value["total"][case]) for case in _CASES)])
    firsts = (value["instead"][case] for case in _CASES)
    rows.append(["first choice", *("" if one is None else f"{label(one)} {percent(one['prob'])}" for one in firsts)])
    return _paragraph(f"without {label(value['span'])}") + table(("answer", *_CASES), rows)


def words(value: Mapping[str, Any]) -> str:
    """The change of the answer's surprise for each hidden word."""
    rows = [
        [
            label(word),
            ", ".join(map(str, word["positions"])),
            "infinite" if word["hidden"] is None else f"{-bits(word['hidden']):+.2f}",
        ]
        for word in value["words"]
    ]
    answer = "".join(label(token) for token in value["answer"])
    return _paragraph(f"answer {answer}, surprise {_surprise(value['before'])} bits") + table(
        ("hidden word", "#", "change in bits"), rows
    )


def needle(value: Mapping[str, Any]) -> str:
    """The score at each depth with its confidence range."""
    rows = [
        [f"{one['depth']:.3g} %", *(percent(one[name]) for name in ("mean", "low", "high", "accuracy"))]
        for one in value["depths"]
    ]
    asked = f"{value['facts']} facts, chance {percent(value['chance'])}. {value['example']} ({value['answer']})"
    return _paragraph(asked) + table(("depth", "mean", "95 %: from", "to", "most probable"), rows)


def cost(value: Mapping[str, Any]) -> str:
    """The parts of the model, and the cost of each length."""
    boxes = [
        [box["box"].replace("_", " "), count(box["parameters"]), count(box["active"]), flops(box["flops_per_token"])]
        for box in value["boxes"]
    ]
    lengths = [
        [
            str(one["tokens"]),
            size(one["kv_bytes"]),
            flops(one["flops_to_read"]),
            flops(one["flops_of_last"]),
            percent(one["attention_share"]),
        ]
        for one in value["lengths"]
    ]
    return table(("part", "parameters", "active", "FLOPs a token"), boxes) + table(
        ("tokens", "KV cache", "FLOPs to read all", "FLOPs of 1 more", "attention scores in it"), lengths
    )


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(visible(text))}</p>"


def _bits(nats: float | None, form: str) -> str:
    return "infinite" if nats is None else format(bits(nats), form)


def _surprise(logprob: float | None) -> str:
    return "" if logprob is None else f"{-bits(logprob):.2f}"


def _probability(logprob: float | None) -> str:
    return percent(0.0 if logprob is None else math.exp(logprob))
