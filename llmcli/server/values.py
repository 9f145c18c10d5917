"""Value types as JSON and back: frozen dataclasses of numbers, texts, bytes, tuples and other dataclasses."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_Value = TypeVar("_Value")


def to_json(value: object) -> object:
    """`value` as JSON values; bytes become a Latin-1 string, and floats keep every bit, infinite ones too."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[_Value], value: object) -> _Value:
    """The dataclass `kind` that `to_json` made `value` of.

    Raises:
        ValueError, KeyError, TypeError: `value` has another form.
    """
    made: _Value = _from_json(kind, value)
    return made


_hints = functools.cache(get_type_hints)


def _from_json(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        (kind,) = (each for each in inner if each is not types.NoneType)
        return _from_json(kind, value)
    if origin is tuple:
        if inner[0] is str and all(type(item) is str for item in value):
            # A vocabulary has hundreds of thousands.
            return tuple(value)
        return tuple(_from_json(inner[0], item) for item in value)
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{each.name: _from_json(hints[each.name], value[each.name]) for each in fields(kind)})  # type: ignore[operator]
    if kind is bytes:
        return value.encode("latin-1")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not of the type {kind.__name__}")
    return value
