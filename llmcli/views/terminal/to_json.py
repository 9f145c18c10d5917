"""Convert value types to plain JSON for `--json`."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any

from llmcli.text.chat_template.json_text import json_text


def plain(value: object) -> object:
    """`value` as JSON values: dataclasses become objects, bytes base64, NaN and infinities null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Sequence | Set) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:  # infinite or not a number
        return None
    return value


def has_nan(value: object) -> bool:
    """Whether any number in `value` (anything `plain` accepts) is NaN, the result of broken weights or activations.

    Infinities do not count: a sum may overflow a float.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return any(has_nan(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return any(map(has_nan, value.values()))
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return any(map(has_nan, value))
    return isinstance(value, float) and math.isnan(value)


def with_bytes(token: Mapping[str, Any], token_bytes: Callable[[int], bytes]) -> dict[str, Any]:
    """Add the `bytes` of a token with an `id`, and of its candidates in `top`: a token may be part of a character."""
    result = {**token, "bytes": plain(token_bytes(token["id"]))}
    if "top" in token:
        result["top"] = [with_bytes(candidate, token_bytes) for candidate in token["top"]]
    return result


def json_line(schema: str, value: object) -> str:
    """`value` as one line of JSON whose first field is its `schema`, for example "llmcli.lens/1"."""
    return json_text(json_value(schema, value), allow_nan=False)


def json_value(schema: str, value: object) -> dict[str, object]:
    """The object of `json_line`."""
    body = plain(value)
    assert isinstance(body, dict)
    return {"schema": schema, **body}
