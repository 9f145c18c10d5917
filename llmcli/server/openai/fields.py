"""Reading the fields of a request: each is read, ignored because it cannot change the result, or an error."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from llmcli.server.http.errors import ApiError

IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "prompt_cache_options", "verbosity", "request_id", "priority",
    }
)  # fmt: skip
"""Fields that have no effect on the reply."""


class Fields:
    """The fields of a request that have not been read yet. Null counts as a field that was not given."""

    def __init__(self, body: Mapping[str, Any], where: str = "") -> None:
        """`where` is the path of an object inside the body, as "stream_options."."""
        self._left = {name: value for name, value in body.items() if value is not None}
        self._where = where

    def value(self, name: str, default: Any = None) -> Any:
        """A field of any type."""
        return self._left.pop(name, default)

    def text(self, name: str) -> str | None:
        """A text.

        Raises:
            ApiError: it has another type, as for all methods below.
        """
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def integer(self, name: str, least: int, most: int | None = None) -> int | None:
        """A whole number from `least` to `most`."""
        value = self.value(name)
        if value is None:
            return None
        # Some clients write whole numbers as 5.0.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < least
            or (most is not None and value > most)
        ):
            raise self.wrong(name, f"a whole number, {limits}", value)
        return value

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, "a number", value)
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A text, or a list of texts."""
        value = self.value(name, [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.wrong(name, "a text or a list of texts", value)
        return tuple(texts)

    def inner(self, name: str) -> Fields | None:
        """The fields of an object."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", value)
        return Fields(value, f"{self._where}{name}.")

    def refuse_unless(self, name: str, *values: object, why: str) -> None:
        """Refuse a field unless its value is one of `values`, which ask for nothing."""
        value = self.value(name)
        if value is not None and value not in values:
            raise ApiError(f"{self._where}{name} is not supported: {why}.", param=self._where + name)

    def end(self, ignored: Collection[str] = IGNORED) -> None:
        """Refuse all fields that have not been read, except those `ignored`: one of them might change the result."""
        for name in self._left:
            if name not in ignored:
                raise ApiError(
                    f"{self._where}{name} is not supported here; leave it out.",
                    param=self._where + name,
                    code="unsupported_field",
                )

    def wrong(self, name: str, wanted: str, value: object) -> ApiError:
        """The error for a field that is not `wanted`."""
        shown = repr(value)
        return ApiError(
            f"{self._where}{name} must be {wanted}, not {shown if len(shown) < 60 else shown[:59] + '…'}.",
            param=self._where + name,
        )
