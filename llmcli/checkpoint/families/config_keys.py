"""Typed reading of a model's `config.json`: every key named in the error when it is missing or of the wrong kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmcli.errors import CheckpointError

# Larger numbers are nonsense in a configuration, and would only turn up later as a failed allocation.
LARGEST = (1 << 31) - 1
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-9, 1e12


_LONGEST_VALUE = 100


def in_short(value: object) -> str:
    """A value as Python writes it, of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # whole numbers of thousands of digits
        text = "a number of very many digits"
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of one JSON object, with the defaults a family has for absent ones.

    Absent and null differ: `"sliding_window": null` switches the window off, an absent key takes the family's default.
    """

    values: Mapping[str, object]
    path: Path
    defaults: Mapping[str, object] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys that a family uses in the place of the usual one; the first that is there counts."""

    def get(self, name: str) -> object:
        """The value as it stands in the file, else the family's default, else None."""
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
        """A finite number; `CheckpointError` when missing or of another kind."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a finite number is needed."
            )
        return float(value)

    def not_negative(self, name: str) -> float:
        """A finite number from zero; `CheckpointError` when missing or anything else."""
        value = self.number(name)
        if value < 0:
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {value}; a number from 0 is needed.")
        return value

    def positive(self, name: str) -> float:
        """A number above zero, of a size that can be computed with; `CheckpointError` when missing or anything else."""
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
        """A list of finite numbers above zero; `CheckpointError` when missing or anything else."""
        value = self.get(name)
        if not isinstance(value, list):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a list of numbers is needed."
            )
        return tuple(ConfigKeys({name: item}, self.path).positive(name) for item in value)

    def integers(self, name: str) -> list[int] | None:
        """A list of whole numbers, None when absent, null or empty; `CheckpointError` when anything else."""
        value = self.get(name)
        if not value:
            return None
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a list of whole numbers is needed."
            )
        return value

    def flag(self, name: str) -> bool:
        """True or false; absent without a default means false."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(
                f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; true or false is needed."
            )
        return bool(value)

    def text(self, name: str) -> str | None:
        """A string, or None when absent or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; a string is needed.")
        return value

    def section(self, name: str) -> ConfigKeys | None:
        """A nested object, or None when absent, null or empty."""
        value = self.get(name)
        if not value:
            return None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path} has {self.spelled(name)!r} = {in_short(value)}; an object is needed.")
        return ConfigKeys(value, self.path)
