"""Endings of unfinished texts are found, and known endings are reused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")

from llmcli.engine.guided.completion_search import EndingSearch
from llmcli.engine.guided.grammar import Rule

NUMBER = {"type": "number"}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "numbers": closed(a=NUMBER, b=NUMBER, c=NUMBER, d={"type": "string"}),
    "nested": closed(x=closed(y=closed(z=NUMBER, w=NUMBER), v=NUMBER), u={"type": "integer"}),
    "items": closed(list={"type": "array", "items": closed(a=NUMBER, b=NUMBER), "minItems": 3}, n=NUMBER),
    "large": closed(a={"type": "integer", "minimum": 100000}, b={"type": "integer", "maximum": -5000}, c=NUMBER),
    "multiples": closed(a={"type": "integer", "multipleOf": 7, "minimum": 10}, b=NUMBER),
    "long text": closed(a={"type": "string", "minLength": 120}, b=NUMBER),
    "patterns": closed(a={"type": "string", "pattern": "foo.*bar"}, b=NUMBER, c={"type": "string", "pattern": "^x+y$"}),
    "one of": closed(a={"oneOf": [closed(k={"const": "circle"}, r=NUMBER), closed(k={"const": "square"})]}, b=NUMBER),
    "recursive": {
        "$ref": "#/$defs/tree",
        "$defs": {"tree": closed(v=NUMBER, next={"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]})},
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_greedy_ending_completes_json(schema: dict[str, Any]) -> None:
    ending = EndingSearch(Rule("json-schema", json.dumps(schema))).greedy(2000, looks=20_000)
    assert ending is not None
    value = json.loads(ending)
    required = schema.get("required", ["v", "next"])
    assert list(value) == required


EXPRESSIONS = [
    "[a-z ]{5,}x",
    "(([a-c]{2}d){5}e){6}",
    "(?s:.*)foo(?s:.*)bar",
    "[^x]*x[^y]*y[^z]*z",
    "[ab]*a[ab]{12}c",
    "(red|green|blue)(, (red|green|blue)){9,}",
    "[A-Za-z ,]{100,300}!",
    "é+ö{3}",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_search_completes_an_expression(expression: str) -> None:
    search = EndingSearch(Rule("regex", expression))
    ending = search.greedy(400, looks=20_000) or search.search(20_000, 400)[0]
    assert ending is not None and re.fullmatch(expression, ending.decode())


def test_the_search_finds_a_shorter_ending_than_the_greedy_one() -> None:
    search = EndingSearch(Rule("json-schema", json.dumps({"enum": ["a text that takes its time", "no"]})))
    assert search.greedy(100) == b'"a text that takes its time"'
    assert search.search(1000, 20)[0] == b'"no"'


def test_literals_of_a_grammar_lead_to_an_ending() -> None:
    grammar = 'start: "<" /[a-z]+/ ">" BODY "</end>"\nBODY: /[^q]+q/\n'
    search = EndingSearch(Rule("grammar", grammar))
    ending, left = search.search(20_000, 60)
    assert ending is not None and re.fullmatch(rb"<[a-z]+>[^q]+q</end>", ending) and left > 0


def test_the_tail_of_a_known_ending_is_reused_after_another_value() -> None:
    search = EndingSearch(Rule("json-schema", json.dumps(SCHEMAS["numbers"])))
    known = search.greedy(100)
    assert known == b'{"a":0,"b":0,"c":0,"d":""}'
    search.push(b'{"a": 3.25')
    assert search.rest_of(known[5:]) == b'0,"b":0,"c":0,"d":""}'
    back = search.push(b", ")
    assert search.rest_of(known[5:]) == b'"b":0,"c":0,"d":""}'
    back()
    assert search.rest_of(known[5:]) == b'0,"b":0,"c":0,"d":""}'
    search.push(b', "b": 1, "c"')
    assert search.rest_of(b"}") is None


def test_a_grammar_without_an_ending_uses_up_the_budget() -> None:
    search = EndingSearch(Rule("grammar", "start: /[ab]/ start\n"))
    assert search.greedy(1000, looks=500) is None
    ending, left = search.search(500, 1000)
    assert ending is None and left < 20


def test_only_usable_bytes_are_tried() -> None:
    search = EndingSearch(Rule("regex", "[a-z]{3}"), b"xyz")
    assert search.greedy(10) == b"xxx"
