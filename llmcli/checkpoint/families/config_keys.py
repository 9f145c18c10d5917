"""Typed access to a model's `config.json`; errors name the key that is missing or invalid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmcli.errors import CheckpointError

# Larger numbers are invalid in a configuration, and would only show later as a failed allocation.
LARGEST = (1 << 31) - 1
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-9, 1e12


_LONGEST_VALUE = 100


def in_short(value: object) -> str:
    """The `repr` of a value, shortened to a bounded length."""
    try:
        text = repr(value)
    except ValueError:  # an int with thousands of digits
        text = "a number of very many digits"
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of one JSON object, with a family's defaults for absent ones.

    Absent and null differ: `"sliding_window": null` switches the window off, an absent key gets the family's default.
    """

    values: Mapping[str, object]
    path: Path
    defaults: Mapping[str, object] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys that a family uses instead of the usual one, in order of precedence."""

    def get(self, name: str) -> object:
        """The value in the file, else the family's default, else None."""
        for candidate in self.aliases.get(name, (name,)):
            if candidate in self.values:
                return self.values[candidate]
        return self.defaults.get(name)

    def spelled(self, name: str) -> str:
        """The key in the file that `name` is read from."""
        return next((key for key in self.aliases.get(name, (name,)) if key in self.values), name)

    def integer(self, name: str, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; `CheckpointError` otherwise."""
        value = self.optional_integer(name, minimum=minimum)
        if value is None:
            raise CheckpointError(f"{self.path} lacks {self.spelled(name)!r}, without which the model cannot be built.")
        return value

    def optional_integer(self, name: str, *, minimum: int = 1) -> int | None:
        """Like `integer`, but None when the key is absent without a default, or null."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a whole number from {minimum} is needed."
            )
        if value > LARGEST:
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}, which is more than any model has."
            )
        return value

    def number(self, name: str) -> float:
        """A finite number; `CheckpointError` if missing or of another type."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a finite number is needed."
            )
        return float(value)

    def not_negative(self, name: str) -> float:
        """A finite number of at least 0; `CheckpointError` if missing or invalid."""
        value = self.number(name)
        if value < 0:
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {value}; a number from 0 is needed.")
        return value

    def positive(self, name: str) -> float:
        """A number above 0, neither tiny nor huge (1e-9 to 1e12); `CheckpointError` if missing or invalid."""
        value = self.number(name)
        if not _SMALLEST_FACTOR <= value <= _LARGEST_FACTOR:
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {value}; a positive number of sensible size is needed."
            )
        return value

    def optional_positive(self, name: str) -> float | None:
        """Like `positive`, but None when the key is absent without a default, or null."""
        return None if self.get(name) is None else self.positive(name)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers above 0; `CheckpointError` if missing or invalid."""
        value = self.get(name)
        if not isinstance(value, list):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a list of numbers is needed."
            )
        return tuple(ConfigKeys({name: item}, self.path).positive(name) for item in value)

    def integers(self, name: str) -> list[int] | None:
        """A list of whole numbers, None if absent, null or empty; `CheckpointError` for anything else."""
        value = self.get(name)
        if not value:
            return None
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a list of whole numbers is needed."
            )
        return value

    def flag(self, name: str) -> bool:
        """A boolean; false if absent without a default."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; true or false is needed."
            )
        return bool(value)

    def text(self, name: str) -> str | None:
        """A string, or None if absent or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a string is needed.")
        return value

    def section(self, name: str) -> ConfigKeys | None:
        """A nested object, or None if absent, null or empty."""
        value = self.get(name)
        if not value:
            return None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; an object is needed.")
        return ConfigKeys(value, self.path)
