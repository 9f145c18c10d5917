"""Adapt a JSON schema to what llguidance supports, and refuse what it cannot express with an error that says why.

Annotations and unknown keywords do not affect validity and stay as they are. A keyword without effect is removed, and
one that another keyword can express is replaced by that: so a schema is refused only where a restriction would be lost.
Only subschemas that can be reached from the root are visited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin

from llmcli.engine.guided.schema_overlap import exclude_each_other
from llmcli.errors import UsageError

Node: TypeAlias = dict[str, Any]

# Keywords that hold subschemas: one, one or a list of them, a list, and by name.
_ONE, _ONE_OR_LIST = ("additionalProperties", "additionalItems"), ("items",)
_LISTS, _NAMED = ("allOf", "anyOf", "oneOf", "prefixItems"), ("properties", "patternProperties")
_WHOLE_NUMBERS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# Keywords that apply subschemas to the same value: beside them, which properties stay unevaluated is not known here.
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas", "dependencies")
_OPTIONS = {
    "item_separator": str,
    "key_separator": str,
    "whitespace_flexible": bool,
    "whitespace_pattern": (str, type(None)),
    "coerce_one_of": bool,
    "lenient": bool,
    "json_allowed_escapes": (str, type(None)),
    "json_allow_general_unicode_escapes": bool,
}
_DRAFTS = re.compile(r"https?://json-schema\.org/(?:draft-0?(\d)|draft/(2019)-09|draft/(2020)-12)/schema#?$")
# The draft that introduced a keyword; in a schema of an older draft it is an annotation.
_SINCE = {"contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7} | dict.fromkeys(
    (
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
    ),
    2019,
)
_INSTEAD = {
    "not": 'say what is allowed instead, with "enum", "type" or "pattern"',
    "contains": 'leave it out and check the reply, or say with "prefixItems" where the item is',
    "uniqueItems": "leave it out and check the reply",
    "propertyNames": 'say the names with "patternProperties" and "additionalProperties": false',
    "dependentRequired": 'write the cases out with "anyOf"',
    "dependentSchemas": 'write the cases out with "anyOf"',
    "dependencies": 'write the cases out with "anyOf"',
    "if": 'write the cases out with "anyOf"',
    "unevaluatedProperties": 'put the properties into one schema with "additionalProperties": false',
    "unevaluatedItems": 'put the items into one schema with "prefixItems" and "items": false',
    "$dynamicRef": 'use "$ref"',
    "$recursiveRef": 'use "$ref"',
}


class AdaptedSchema:
    """A schema adapted to llguidance."""

    def __init__(self, schema: Node, known_format: Callable[[str], bool]) -> None:
        """`schema` is changed in place; `known_format` says whether llguidance can enforce a "format".

        Raises:
            UsageError: a keyword cannot be enforced; the message names it and its place.
        """
        self.root = schema
        self.notes: list[str] = []
        """Warnings for the user."""
        self.places: dict[str, Node] = {}
        """The subschemas that can be reached from the root by their JSON pointers, "#" first."""
        self.options = _options(schema)
        self._known_format = known_format
        self._formats: dict[str, bool] = {}
        self._left_out: list[str] = []
        self._seen: set[int] = set()
        draft = _DRAFTS.match(str(schema.get("$schema", "")))
        if draft is None:
            schema.pop("$schema", None)
        self._draft = int(next(filter(None, draft.groups()))) if draft else 2020
        self._ids = {urldefrag(name)[0]: node for name, node in _identified(schema)}
        try:
            self._visit(schema, "#")
        except RecursionError:
            raise UsageError("The --json-schema cannot be used: it is nested too deeply.") from None
        unknown = [name for name, known in self._formats.items() if not known]
        if unknown:
            self.notes.append(f"Unknown formats are not checked: {', '.join(unknown)}.")
        if self._left_out:
            self.notes.append(f'"lenient" leaves out {", ".join(self._left_out)}: replies may not fit.')

    def _visit(self, node: Any, place: str) -> None:
        if isinstance(node, bool) or id(node) in self._seen:
            return
        if not isinstance(node, dict):
            raise _refusal(place, f"a schema is an object, true or false, not {_shown(node)}")
        self._seen.add(id(node))
        self.places[place] = node
        for inside, where in _inside(node, place):
            self._visit(inside, where)
        self._follow(node, place)
        self._whole_numbers(node, place)
        self._format(node, place)
        for keyword in [*_INSTEAD, "then", "else", "minContains", "maxContains", "$recursiveAnchor", "$dynamicAnchor"]:
            if keyword in node:
                self._unsupported(node, keyword, place)
        self._counts(node)
        if "oneOf" in node:
            self._one_of(node, place)

    def _follow(self, node: Node, place: str) -> None:
        """Visit the target of `$ref`; replace `$recursiveRef` and `$dynamicRef` by it where they mean the same."""
        if node.get("$recursiveRef") == "#" and "$ref" not in node:
            _rename(node, "$recursiveRef", "$ref")
        dynamic = node.get("$dynamicRef")
        if isinstance(dynamic, str) and "$ref" not in node:
            named = [inside for inside in _everywhere(self.root) if "#" + str(inside.get("$dynamicAnchor")) == dynamic]
            if len(named) == 1 or dynamic.startswith("#/") or dynamic == "#":
                for inside in named:
                    inside.setdefault("$anchor", inside.pop("$dynamicAnchor"))
                _rename(node, "$dynamicRef", "$ref")
        if "$ref" in node:
            target = self.target(node["$ref"])
            if target is None:
                raise self._bad_reference(node["$ref"], place)
            self._visit(target, node["$ref"])

    def target(self, reference: object) -> Any:
        """The subschema that a reference names; None if there is none, or if the reference is not a string."""
        if not isinstance(reference, str):
            return None
        base = str(self.root.get("$id", self.root.get("id", "")))
        address, fragment = urldefrag(urljoin(base, reference) if not reference.startswith("#") else reference)
        start = self.root if not address or address == urldefrag(base)[0] else self._ids.get(address)
        if start is None or not fragment:
            return start
        if not fragment.startswith("/"):
            return next((node for node in _everywhere(start) if node.get("$anchor") == fragment), None)
        found: Any = start
        for step in unquote(fragment)[1:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return None
        return found

    @staticmethod
    def _bad_reference(reference: object, place: str) -> UsageError:
        if isinstance(reference, str) and not reference.startswith("#"):
            return _refusal(
                f"{place}/$ref",
                f'{_shown(reference)} is not in this schema, and schemas are not fetched: copy it under "$defs" and '
                'refer to it as "#/$defs/NAME"',
            )
        return _refusal(f"{place}/$ref", f"{_shown(reference)} points to nothing in this schema")

    @staticmethod
    def _whole_numbers(node: Node, place: str) -> None:
        for keyword in _WHOLE_NUMBERS:
            value = node.get(keyword)
            if isinstance(value, float) and value.is_integer():
                node[keyword] = value = int(value)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise _refusal(f"{place}/{keyword}", f"it is a whole number from 0 on, not {_shown(value)}")
            # Longer than any reply, and llguidance cannot count that far.
            if isinstance(value, int) and value >= 1 << 31 and keyword.startswith("max"):
                del node[keyword]

    def _format(self, node: Node, place: str) -> None:
        name = node.get("format")
        if name is None:
            return
        if not isinstance(name, str):
            raise _refusal(f"{place}/format", f"it is a text, not {_shown(name)}")
        if _can_be(node, "string") and name not in self._formats:
            self._formats[name] = self._known_format(name)
        if not self._formats.get(name, True):
            del node["format"]

    def _unsupported(self, node: Node, keyword: str, place: str) -> None:
        """Remove a keyword without effect, replace one that another keyword can express, and refuse the others."""
        if keyword not in node:  # removed with another keyword
            return
        if self._draft < _SINCE.get(keyword, 0) or keyword not in _INSTEAD or _adds_nothing(node, keyword):
            node.pop(keyword)
            if keyword in ("if", "contains"):
                for other in ("then", "else") if keyword == "if" else ("minContains", "maxContains"):
                    node.pop(other, None)
            return
        instead = {"unevaluatedProperties": "additionalProperties", "unevaluatedItems": "items"}.get(keyword)
        if instead is not None and not any(other in node for other in (*_IN_PLACE, "contains")):
            if instead in node:
                node.pop(keyword)
            else:
                self._visit(node[keyword], f"{place}/{keyword}")
                _rename(node, keyword, instead)
            return
        if self.options.get("lenient"):
            node.pop(keyword)
            self._left_out.append(f'"{keyword}" at {place}')
            return
        raise _refusal(f"{place}/{keyword}", f'replies cannot be held to "{keyword}": {_INSTEAD[keyword]}')

    @staticmethod
    def _counts(node: Node) -> None:
        """Leave out limits for the number of properties that hold anyway."""
        required, properties = node.get("required"), node.get("properties", {})
        if isinstance(required, list) and node.get("minProperties", 1 << 31) <= len(set(map(str, required))):
            del node["minProperties"]
        if node.get("minProperties") == 0:
            del node["minProperties"]
        closed = node.get("additionalProperties") is False and not node.get("patternProperties")
        if closed and isinstance(properties, dict) and node.get("maxProperties", -1) >= len(properties):
            del node["maxProperties"]

    def _one_of(self, node: Node, place: str) -> None:
        """Replace it by `anyOf`, which is the same where no two branches can hold."""
        # Only values that the rest holds for count.
        rest = {name: value for name, value in node.items() if name != "oneOf"}
        branches = [branch if branch is False else {"allOf": [branch, rest]} for branch in node["oneOf"]]
        for second in range(len(branches)):
            for first in range(second):
                if exclude_each_other(branches[first], branches[second], self.target):
                    continue
                if self.options.get("lenient") or self.options.get("coerce_one_of"):
                    self.notes.append(f'"oneOf" at {place} is taken as "anyOf": replies may fit several branches.')
                    _any_instead(node)
                    return
                raise _refusal(
                    f"{place}/oneOf",
                    f'its branches {first} and {second} may both hold: use "anyOf", or give each branch a required '
                    'property with another "const"',
                )
        _any_instead(node)


def _any_instead(node: Node) -> None:
    if "anyOf" not in node:
        _rename(node, "oneOf", "anyOf")
    elif "allOf" not in node:
        _rename(node, "oneOf", "allOf")
        node["allOf"] = [{"anyOf": node["allOf"]}]
    else:
        node["allOf"] = [*node["allOf"], {"anyOf": node.pop("oneOf")}]


def _rename(node: Node, keyword: str, to: str) -> None:
    """Rename a keyword in place: the order of keywords is the order of properties in replies."""
    renamed = {to if name == keyword else name: value for name, value in node.items()}
    node.clear()
    node.update(renamed)


def _adds_nothing(node: Node, keyword: str) -> bool:
    """Whether `keyword` excludes no value that fits the rest of `node`."""
    value = node[keyword]
    kind = {"uniqueItems": "array", "contains": "array", "unevaluatedItems": "array", "not": "", "if": ""}.get(
        keyword, "object"
    )
    if kind and not keyword.startswith("$") and not _can_be(node, kind):
        return True
    required = node.get("required")
    names = set(map(str, required)) if isinstance(required, list) else set()
    if keyword == "not":
        return value is False
    if keyword == "uniqueItems":
        return value is False or node.get("maxItems", 2) < 2
    if keyword == "contains":
        return node.get("minContains") == 0 and "maxContains" not in node
    if keyword == "if":
        return all(_is_open(node.get(branch, True)) for branch in ("then", "else"))
    if keyword in ("dependentRequired", "dependencies", "dependentSchemas") and isinstance(value, dict):
        return all(
            _is_open(needed) or (isinstance(needed, list) and names >= set(map(str, needed)))
            for needed in value.values()
        )
    return keyword in ("propertyNames", "unevaluatedProperties", "unevaluatedItems") and _is_open(value)


def _is_open(schema: Any) -> bool:
    return schema is True or schema == {}


def _can_be(node: Node, kind: str) -> bool:
    types = node.get("type", kind)
    return kind in (types if isinstance(types, list) else [types])


def _inside(node: Node, place: str) -> Iterator[tuple[Any, str]]:
    """The direct subschemas of `node`, and their JSON pointers.

    Raises:
        UsageError: the value of a keyword has the wrong type.
    """
    for keyword, value in list(node.items()):
        where = f"{place}/{keyword}"
        if keyword in _LISTS or (keyword in _ONE_OR_LIST and isinstance(value, list)):
            if not isinstance(value, list):
                raise _refusal(where, f"it is a list of schemas, not {_shown(value)}")
            yield from ((inside, f"{where}/{index}") for index, inside in enumerate(value))
        elif keyword in _NAMED:
            if not isinstance(value, dict):
                raise _refusal(where, f"it is an object of schemas, not {_shown(value)}")
            yield from ((inside, f"{where}/{_step(name)}") for name, inside in value.items())
        elif keyword in _ONE or keyword in _ONE_OR_LIST:
            yield value, where


def _everywhere(node: Any) -> Iterator[Node]:
    """Every object in `node`, itself first."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, (dict, list)):
        for inside in node.values() if isinstance(node, dict) else node:
            yield from _everywhere(inside)


def _identified(root: Node) -> Iterator[tuple[str, Node]]:
    base = str(root.get("$id", root.get("id", "")))
    for node in _everywhere(root):
        name = node.get("$id", node.get("id"))
        if isinstance(name, str):
            yield urljoin(base, name), node


def _options(schema: Node) -> dict[str, Any]:
    """The options for llguidance in a schema's "x-guidance"; those that are handled here are removed from it."""
    options = schema.get("x-guidance", {})
    if not isinstance(options, dict):
        raise _refusal("#/x-guidance", f"it is an object, not {_shown(options)}")
    for name, value in options.items():
        if name not in _OPTIONS:
            raise _refusal("#/x-guidance", f"there is no option {_shown(name)}, only {', '.join(_OPTIONS)}")
        if not isinstance(value, _OPTIONS[name]):  # type: ignore[arg-type]
            raise _refusal(f"#/x-guidance/{name}", f"it cannot be {_shown(value)}")
    if options:
        schema["x-guidance"] = {
            name: value for name, value in options.items() if name not in ("lenient", "coerce_one_of")
        }
    return options


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _refusal(place: str, why: str) -> UsageError:
    return UsageError(f"The --json-schema cannot be used: at {place}, {why}.")
