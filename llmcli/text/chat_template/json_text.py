"""Values as JSON that can always be written as UTF-8."""

from __future__ import annotations

import json
import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: object, *, indent: int | None = None, allow_nan: bool = True) -> str:
    r"""`value` as JSON with characters as they are, but lone surrogates as escapes such as `\udce8`.

    Lone surrogates are how Python represents the bytes of file names that are not UTF-8. They cannot be encoded, but
    `json.loads` makes them of their escapes again, so that a saved name finds its file.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=allow_nan)
    return text if text.isascii() else _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
