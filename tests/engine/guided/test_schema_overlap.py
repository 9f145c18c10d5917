from __future__ import annotations

from typing import Any

import pytest

from llmcli.engine.guided.schema_overlap import exclude_each_other

DEFS: dict[str, Any] = {
    "text": {"type": "string"},
    "self": {"$ref": "self"},
    "tree": {"type": "object", "properties": {"l": {"$ref": "tree"}, "r": {"$ref": "tree"}}, "required": ["l", "r"]},
}


def kind(name: object, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"], **more}


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        (False, True, True),
        (True, {"type": "null"}, False),
        ({"type": "string"}, {"type": ["null", "integer"]}, True),
        ({"type": "number"}, {"type": "integer"}, False),
        ({"type": "integer", "maximum": 4}, {"type": "number", "minimum": 5}, True),
        ({"type": "integer", "maximum": 5}, {"type": "number", "minimum": 5}, False),
        ({"type": "integer", "maximum": 5}, {"type": "number", "minimum": 5, "exclusiveMinimum": True}, True),
        ({"type": "number", "exclusiveMaximum": 5}, {"type": "number", "minimum": 5}, True),
        ({"maximum": 4}, {"minimum": 5}, False),  # does not apply to strings
        ({"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}, True),
        ({"type": "array", "minItems": 3}, {"type": "array", "maxItems": 2}, True),
        ({"type": "array", "minItems": 2}, {"type": "array", "maxItems": 2}, False),
        ({"const": 1}, {"const": 1.0}, False),
        ({"const": 1}, {"const": True}, True),
        ({"enum": ["a", "b"]}, {"enum": ["c"]}, True),
        ({"enum": ["a", "b"]}, {"type": "string", "minLength": 2}, True),
        ({"enum": ["a", "bb"]}, {"type": "string", "minLength": 2}, False),
        ({"const": 1.5}, {"type": "integer"}, True),
        ({"const": {"kind": 1}}, kind(2), True),
        ({"const": {}}, kind(2), True),
        (kind("a"), kind("b"), True),
        (kind("a"), kind("a"), False),
        (kind("a", required=[]), kind("b", required=[]), False),
        (kind("a", required=[]), kind("b"), True),
        (kind("a"), {"type": "object", "properties": {"x": True}, "additionalProperties": False}, True),
        (kind("a"), {"type": "object", "patternProperties": {"^k": True}, "additionalProperties": False}, False),
        ({"anyOf": [kind("a"), kind("b")]}, kind("c"), True),
        ({"anyOf": [kind("a"), kind("c")]}, kind("c"), False),
        ({"allOf": [{"minimum": 1}, {"type": "string"}]}, {"type": "null"}, True),
        ({"$ref": "text"}, {"type": "null"}, True),
        ({"$ref": "text"}, {"type": "string"}, False),
        ({"$ref": "self"}, {"type": "string"}, False),
        ({"$ref": "tree"}, {"$ref": "tree"}, False),
        ({"$ref": "nowhere"}, {"type": "string"}, False),
    ],
    ids=str,
)
def test_only_certain_exclusion_counts(first: Any, second: Any, apart: bool) -> None:
    for one, other in ((first, second), (second, first)):
        assert exclude_each_other(one, other, lambda name: DEFS.get(str(name))) is apart
