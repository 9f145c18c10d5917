"""Whether two JSON schemas exclude each other: no value fits both. In doubt the answer is no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Target: TypeAlias = Callable[[object], Any]
Parts: TypeAlias = list[dict[str, Any]]

_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_RANGES = {"number": ("minimum", "maximum"), "string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_MISSING = object()


def exclude_each_other(first: Any, second: Any, target: Target) -> bool:
    """Whether certainly no value fits both; `target` resolves a `$ref`."""
    return _Comparison(target).excluded(first, second)


class _Comparison:
    """Compares schemas, each pair once: a recursive comparison counts as not certain."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # Keeps the schemas alive, so that no `id` is reused.
        self._compared: dict[tuple[int, int], tuple[bool, Any, Any]] = {}

    def excluded(self, first: Any, second: Any) -> bool:
        """Whether no value fits both."""
        if first is False or second is False:
            return True
        if not isinstance(first, dict) or not isinstance(second, dict):
            return False
        pair = (id(first), id(second))
        if pair not in self._compared:
            self._compared[pair] = (False, first, second)
            self._compared[pair] = (self._apart(first, second), first, second)
        return self._compared[pair][0]

    def _apart(self, first: dict[str, Any], second: dict[str, Any]) -> bool:
        ones, others = _parts(first, self._target), _parts(second, self._target)
        for parts, against in ((ones, second), (others, first)):
            for branches in (part[name] for part in parts for name in ("anyOf", "oneOf") if name in part):
                if isinstance(branches, list) and all(self.excluded(branch, against) for branch in branches):
                    return True
        for part, rivals in (*((part, others) for part in ones), *((part, ones) for part in others)):
            values = _values(part)
            if values is not None and all(not self._may_fit(value, rivals) for value in values):
                return True
        return not any(self._may_share(kind, ones, others) for kind in _types(ones) & _types(others))

    def _may_share(self, kind: str, ones: Parts, others: Parts) -> bool:
        """Whether a value of the type `kind` may fit both."""
        if kind in _RANGES:
            return not (_below(ones, others, *_RANGES[kind]) or _below(others, ones, *_RANGES[kind]))
        # No object fits both if a property that one side requires cannot fit both.
        names = dict.fromkeys(name for part in (*ones, *others) for name in _required(part))
        return kind != "object" or not any(
            self.excluded(_property(one, name), _property(other, name))
            for name in names
            for one in ones
            for other in others
        )

    def _may_fit(self, value: Any, parts: Parts) -> bool:
        """Whether `value` may fit all `parts`; keywords that are not checked count as fitting."""
        kind = _type(value)
        if kind not in _types(parts):
            return False
        for part in parts:
            values = _values(part)
            if values is not None and not any(_same(value, other) for other in values):
                return False
            if kind == "number" and part.get("type") in ("integer", ["integer"]) and not float(value).is_integer():
                return False
            size = value if kind == "number" else len(value) if kind in _RANGES else None
            if size is not None:
                least, most = _RANGES[kind]
                if not _number(part, least, size) <= size <= _number(part, most, size):
                    return False
            if kind == "object" and any(name not in value for name in _required(part)):
                return False
            if kind == "object" and any(
                self.excluded({"const": inside}, _property(part, name)) for name, inside in value.items()
            ):
                return False
        return True


def _parts(node: Any, target: Target) -> Parts:
    """The schemas that a value of `node` fits: itself, its "allOf" and the targets of "$ref", recursively."""
    found: dict[int, dict[str, Any]] = {}
    left = [node]
    while left:
        part = left.pop()
        if isinstance(part, dict) and id(part) not in found:
            found[id(part)] = part
            all_of = part.get("allOf")
            left += [*(all_of if isinstance(all_of, list) else []), *([target(part["$ref"])] if "$ref" in part else [])]
    return list(found.values())


def _types(parts: Parts) -> frozenset[str]:
    """The types of values that may fit all `parts`; an integer is a number."""
    types = _TYPES
    for part in parts:
        if "type" in part:
            named = part["type"] if isinstance(part["type"], list) else [part["type"]]
            types = types & {"number" if name == "integer" else name for name in named if isinstance(name, str)}
        values = _values(part)
        if values is not None:
            types = types & {_type(value) for value in values}
    return types


def _values(part: dict[str, Any]) -> list[Any] | None:
    """The only values that fit, if the schema lists them."""
    if "const" in part:
        return [part["const"]]
    values = part.get("enum")
    return values if isinstance(values, list) else None


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and _type(one) == _type(other)


def _number(part: dict[str, Any], keyword: str, otherwise: float) -> float:
    value = part.get(keyword)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise


def _below(low: Parts, high: Parts, least: str, most: str) -> bool:
    """Whether the maximum of `low` is less than the minimum of `high`."""
    top = min((_number(part, most, float("inf")) for part in low), default=float("inf"))
    bottom = max((_number(part, least, -float("inf")) for part in high), default=-float("inf"))
    if least != "minimum":
        return top < bottom
    open_top = min((_number(part, "exclusiveMaximum", float("inf")) for part in low), default=float("inf"))
    open_bottom = max((_number(part, "exclusiveMinimum", -float("inf")) for part in high), default=-float("inf"))
    # In draft 4, exclusiveMaximum is a boolean that makes maximum itself exclusive.
    if any(part.get("exclusiveMaximum") is True for part in low):
        open_top = min(open_top, top)
    if any(part.get("exclusiveMinimum") is True for part in high):
        open_bottom = max(open_bottom, bottom)
    return top < bottom or open_top <= max(bottom, open_bottom) or top <= open_bottom


def _required(part: dict[str, Any]) -> list[str]:
    names = part.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _property(part: dict[str, Any], name: str) -> Any:
    properties = part.get("properties")
    found = properties.get(name, _MISSING) if isinstance(properties, dict) else _MISSING
    if found is not _MISSING:
        return found
    return True if part.get("patternProperties") else part.get("additionalProperties", True)
