"""JSON schema, keyword by keyword: which are enforced, which have no effect, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")

from llmcli.engine.guided.grammar import Rule
from llmcli.engine.guided.json_schema import AdaptedSchema
from llmcli.errors import UsageError

CIRCLE = {"type": "object", "properties": {"kind": {"const": "circle"}}, "required": ["kind"]}
SQUARES = {"type": "object", "properties": {"kind": {"enum": ["square", "cube"]}}, "required": ["kind"]}


def adapted(schema: dict[str, Any]) -> AdaptedSchema:
    return AdaptedSchema(json.loads(json.dumps(schema)), lambda name: name == "uuid")


def fits(schema: Any, text: str) -> bool:
    """Whether `text` is a complete reply."""
    matcher, data = Rule("json-schema", json.dumps(schema)).byte_matcher(), list(text.encode())
    if matcher.validate_tokens(data) < len(data):
        return False
    matcher.consume_tokens(data)
    return bool(matcher.is_accepting())


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, "[1]", "[1"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 2.0}, "[1, 2]", "[1, 2, 3]"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2e0}, "[1,2]", "[1]"),
        ({"type": "string", "minLength": 2.0, "maxLength": 3.0}, '"abc"', '"a"'),
        ({"type": "string", "maxLength": 1e30}, '"abc"', "1"),
        ({"type": "string", "format": "color"}, '"#fff"', "1"),
        ({"type": "string", "format": "date"}, '"2024-02-01"', '"today"'),
        ({"type": "integer", "format": "int32"}, "7", '"7"'),
        ({"type": "string", "nullable": True, "title": "t", "deprecated": True, "x-y": [1]}, '"a"', "1"),
        ({"description": "d", "default": {"not": 1}, "examples": [{"if": 1}], "$comment": "c"}, "[1]", "x"),
        ({"enum": [{"not": 1}, "a"]}, '{"not": 1}', "1"),
        ({"const": {"a": [1, None]}}, '{"a": [1, null]}', "{}"),
        ({"properties": {"a": True, "b": False}, "type": "object"}, '{"a": 1}', '{"b": 1}'),
        ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, "4", "3"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}, "y": {"not": {}}}}, "null", "1"),
        ({"$ref": "#/definitions/x", "definitions": {"x": {"maxItems": 1.0, "type": "array"}}}, "[1]", "[1, 2]"),
        ({"$ref": "#x", "$defs": {"any": {"$anchor": "x", "type": "null"}}}, "null", "1"),
        ({"$id": "http://h/s", "$ref": "http://h/s#/$defs/x", "$defs": {"x": {"type": "null"}}}, "null", "1"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, "null", "1"),
        ({"$schema": "urn:ours", "type": "null"}, "null", "1"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, "[null]", "[1]"),
        (
            {"$dynamicAnchor": "n", "type": "array", "items": {"$dynamicRef": "#n"}},
            "[[], [[]]]",
            "[1]",
        ),
        ({"$recursiveAnchor": True, "type": "array", "items": {"$recursiveRef": "#"}}, "[[]]", "[1]"),
        # Keywords without effect.
        ({"type": "array", "uniqueItems": False}, "[1, 1]", "1"),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, "[1]", "[1, 1]"),
        ({"type": "string", "uniqueItems": True, "contains": {}, "propertyNames": False}, '"a"', "1"),
        ({"type": "array", "contains": {"type": "null"}, "minContains": 0}, "[1]", "1"),
        ({"if": {"type": "null"}, "type": "integer"}, "1", "null"),
        ({"then": False, "else": False, "maxContains": 0, "type": "integer"}, "1", "null"),
        ({"not": False, "type": "integer"}, "1", "null"),
        ({"propertyNames": {}, "dependentSchemas": {"a": True}, "dependencies": {}, "type": "object"}, "{}", "1"),
        (
            {"type": "object", "properties": {"b": True}, "required": ["b"], "dependentRequired": {"a": ["b"]}},
            '{"b": 1}',
            "{}",
        ),
        (
            {
                "type": "object",
                "properties": {"a": True, "b": True},
                "required": ["a"],
                "minProperties": 1.0,
                "maxProperties": 2,
                "additionalProperties": False,
            },
            '{"a": 1}',
            "{}",
        ),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "if": {}, "then": False, "type": "null"}, "null", "1"),
        # Keywords that another keyword can express.
        ({"type": "object", "properties": {"a": True}, "unevaluatedProperties": False}, '{"a": 1}', '{"b": 1}'),
        ({"type": "array", "prefixItems": [True], "unevaluatedItems": False}, "[1]", "[1, 2]"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "1", "null"),
        ({"oneOf": [{"type": "number", "maximum": 5}, {"type": "number", "exclusiveMinimum": 5}]}, "5", "null"),
        ({"oneOf": [{"$ref": "#/$defs/c"}, {"allOf": [SQUARES]}], "$defs": {"c": CIRCLE}}, '{"kind": "cube"}', "{}"),
        ({"oneOf": [{"const": 1}, {"const": 2}], "anyOf": [{"const": 2}, {"const": 3}]}, "2", "1"),
        (
            {"oneOf": [{"const": 1}, {"const": 2}], "anyOf": [{"type": "number"}], "allOf": [{"minimum": 2}]},
            "2",
            "1",
        ),
    ],
    ids=str,
)
def test_supported_keywords_are_enforced(schema: Any, good: str, bad: str) -> None:
    Rule("json-schema", json.dumps(schema)).check()
    assert (fits(schema, good), fits(schema, bad)) == (True, False)


@pytest.mark.parametrize(
    ("schema", "place", "why"),
    [
        ({"not": {"type": "null"}}, "#/not", 'held to "not": say what is allowed'),
        ({"properties": {"a/b": {"contains": {}}}}, "#/properties/a~1b/contains", 'held to "contains"'),
        ({"items": {"uniqueItems": True}}, "#/items/uniqueItems", 'held to "uniqueItems"'),
        ({"anyOf": [True, {"if": {}, "then": {"minLength": 1}}]}, "#/anyOf/1/if", 'held to "if": write the cases out'),
        ({"propertyNames": {"pattern": "^a"}}, "#/propertyNames", '"patternProperties"'),
        ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired", '"anyOf"'),
        ({"dependentSchemas": {"a": {"minProperties": 1}}}, "#/dependentSchemas", '"anyOf"'),
        ({"dependencies": {"a": ["b"]}}, "#/dependencies", '"anyOf"'),
        (
            {"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]},
            "#/unevaluatedProperties",
            "one schema",
        ),
        ({"unevaluatedItems": False, "anyOf": [{"prefixItems": [{}]}]}, "#/unevaluatedItems", "one schema"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"not": {}}}}, "#/$defs/x/not", 'held to "not"'),
        ({"$ref": "https://example.org/s.json"}, "#/$ref", "schemas are not fetched: copy it under"),
        ({"items": {"$ref": "other.json#/x"}}, "#/items/$ref", "schemas are not fetched"),
        ({"$ref": "#/$defs/x"}, "#/$ref", "points to nothing in this schema"),
        ({"$ref": "#x"}, "#/$ref", "points to nothing in this schema"),
        ({"$ref": 5}, "#/$ref", "points to nothing in this schema"),
        ({"$dynamicRef": "#x"}, "#/$dynamicRef", 'use "$ref"'),
        (
            {"oneOf": [{"type": "number"}, {"type": "null"}, {"type": "integer"}]},
            "#/oneOf",
            "branches 0 and 2 may both",
        ),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#/oneOf", 'use "anyOf"'),
        ({"properties": {"a": {"maxItems": 1.5}}}, "#/properties/a/maxItems", "a whole number from 0 on, not 1.5"),
        ({"minLength": -1}, "#/minLength", "a whole number"),
        ({"maxLength": True}, "#/maxLength", "a whole number"),
        ({"items": 5}, "#/items", "a schema is an object, true or false, not 5"),
        ({"anyOf": {}}, "#/anyOf", "a list of schemas"),
        ({"properties": []}, "#/properties", "an object of schemas"),
        ({"format": 5}, "#/format", "a text"),
        ({"x-guidance": []}, "#/x-guidance", "an object"),
        ({"x-guidance": {"lenience": True}}, "#/x-guidance", "there is no option 'lenience', only item_separator,"),
        ({"x-guidance": {"lenient": 1}}, "#/x-guidance/lenient", "it cannot be 1"),
        # Errors of the library, with the place that it does not report.
        ({"properties": {"a": {"type": "objekt"}}}, "#/properties/a", "Invalid type: objekt"),
        ({"items": {"anyOf": [{"type": "null"}, {"pattern": "a(?=b)"}]}}, "#/items/anyOf/1", "look-around"),
        ({"items": {"type": "integer", "minimum": 1e30}}, "#/items", "the range of the number is too large"),
        ({"items": {"minimum": "3"}}, "#/items", '"minimum" is a number, got "3"'),
        (
            {"type": "array", "items": {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2}},
            "#/items",
            'held to "minProperties"',
        ),
    ],
    ids=str,
)
def test_the_error_for_a_keyword_names_its_place(schema: dict[str, Any], place: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        Rule("json-schema", json.dumps(schema)).check()
    text = str(refused.value)
    assert text.startswith(f"The --json-schema cannot be used: at {place}, ") and why in text and text.endswith(".")
    # Options of the library that a schema cannot set.
    assert "coerce" not in text.replace("coerce_one_of, lenient", "") and "nimplemented" not in text


def test_the_schema_false_and_values_that_are_not_schemas() -> None:
    for text in ("false", "[]", "5"):
        with pytest.raises(UsageError, match="must be a JSON object"):
            Rule("json-schema", text).check()
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"items": deep}
    with pytest.raises(UsageError, match="cannot be used"):
        Rule("json-schema", json.dumps(deep)).check()


def test_unchecked_formats_give_a_warning() -> None:
    schema = {"properties": {"a": {"type": "string", "format": "color"}, "b": {"format": "uuid", "type": "string"}}}
    result = adapted(schema)
    assert result.notes == ["Unknown formats are not checked: color."]
    assert result.root["properties"]["a"] == {"type": "string"} and "format" in result.root["properties"]["b"]


def test_lenient_schemas_drop_unsupported_keywords() -> None:
    result = adapted({"x-guidance": {"lenient": True}, "oneOf": [{}, {"items": {"not": {}}}]})
    assert result.notes == [
        '"oneOf" at # is taken as "anyOf": replies may fit several branches.',
        '"lenient" leaves out "not" at #/oneOf/1/items: replies may not fit.',
    ]
    assert result.root == {"x-guidance": {}, "anyOf": [{}, {"items": {}}]}
    assert adapted({"x-guidance": {"coerce_one_of": True}, "oneOf": [{}, {}]}).root["anyOf"] == [{}, {}]


def test_a_schema_may_set_its_whitespace() -> None:
    pair = {"type": "array", "items": {"type": "integer"}}
    assert fits(pair | {"x-guidance": {"whitespace_pattern": "_"}}, "[_1_,_2_]")
    assert not fits(pair | {"x-guidance": {"whitespace_flexible": False}}, "[1, 2]")
    assert fits(pair | {"x-guidance": {"item_separator": ";"}}, "[1;2]")
    assert not fits(pair, "[1,  2]") and not fits(pair, "[ 1]") and fits(pair, "[1, 2,3]")


def test_replacing_a_keyword_keeps_the_order_of_properties() -> None:
    schema = {
        "type": "object",
        # They exclude each other only because of the keywords beside them.
        "oneOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}}],
        "properties": {"b": {"type": "null"}},
        "required": ["a", "b"],
    }
    assert list(adapted(schema).root) == ["type", "anyOf", "properties", "required"]
    assert fits(schema, '{"a": 1, "b": null}') and not fits(schema, '{"b": null, "a": 1}')
