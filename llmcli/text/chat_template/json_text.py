"""JSON that can always be encoded as UTF-8."""

from __future__ import annotations

import json
import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: object, *, indent: int | None = None, allow_nan: bool = True) -> str:
    r"""`value` as JSON without ASCII escapes, except lone surrogates, which become escapes such as `\udce8`.

    Python represents the bytes of file names that are not UTF-8 as lone surrogates. They cannot be encoded as UTF-8,
    but `json.loads` restores them from their escapes, so that a saved name finds its file.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=allow_nan)
    return text if text.isascii() else _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
