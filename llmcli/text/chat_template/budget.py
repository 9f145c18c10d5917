"""Limit the work of a chat template: templates are untrusted, and a few lines could run forever.

Counted are loop iterations, calls, and the size of every value (nested values as often as they would be printed).
Jinja's sandbox restricts what a template can access, but neither its running time nor the size of its strings.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Maximum characters of a value and of the output, plus a multiple of the conversation's characters.
_LARGEST = 4 << 20
_PER_CHARACTER_GIVEN = 8
_CHARACTERS_PER_OPERATION = 64
_MOST_BITS = 4096
_DEEPEST = 100

_DIGITS = re.compile(r"\d+")
_COMPUTED_WIDTH = re.compile(r":[^{}]*\{|%[^a-zA-Z%]*\*")


@dataclass(frozen=True)
class Limits:
    """Limits of one rendering."""

    operations: int = 1_000_000
    """The templates of real models need a few dozen per message."""
    seconds: float = 5.0
    """CPU time of this thread, so that a busy machine does not cause refusals."""


LIMITS = Limits()


class OverBudgetError(Exception):
    """The template exceeds a limit."""


class Budget:
    """Counts the work of one rendering against its limits."""

    def __init__(self, variables: Mapping[str, object], limits: Limits = LIMITS) -> None:
        """`variables` are the template's input; the size limit grows with them."""
        # Keyed by identity; holds the values too, so that no identity is reused.
        self._weighed: dict[int, tuple[object, int, int]] = {}
        self._limits = limits
        self.operations = 0
        self._written = 0
        self._deadline = time.thread_time() + limits.seconds
        self._largest = 1 << 62
        self._largest = _LARGEST + _PER_CHARACTER_GIVEN * self.weight(dict(variables))

    def spend(self, operations: int = 1) -> None:
        """Count `operations`; raise `OverBudgetError` if there are too many or the time is up."""
        self.operations += operations
        if self.operations > self._limits.operations:
            raise OverBudgetError(f"it takes more than {self._limits.operations} operations")
        if time.thread_time() > self._deadline:
            raise OverBudgetError(f"it takes more than {self._limits.seconds:.0f} seconds")

    def write(self, characters: int) -> None:
        """Count `characters` of output."""
        self._written += characters
        self.fits(self._written)

    def fits(self, characters: float) -> None:
        """Raise `OverBudgetError` if `characters` is more than a value may have."""
        if characters > self._largest:
            raise OverBudgetError(f"it makes a text of more than {self._largest} characters")

    def take(self, value: Any) -> Any:
        """Count a new `value` and return it; raises `OverBudgetError` if it is too large. Iterators count per item."""
        if isinstance(value, Iterator):
            return self._measured(value)
        weight = self.weight(value)
        self.fits(weight)
        self.spend(1 + weight // _CHARACTERS_PER_OPERATION)
        return value

    def weight(self, value: object, depth: int = 0) -> int:
        """Approximate number of characters of `value` if printed."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            if value.bit_length() > _MOST_BITS:
                raise OverBudgetError(f"it makes a number of more than {_MOST_BITS} bits")
            return 1 + value.bit_length() // 3
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return 1
        known = self._weighed.get(id(value))
        if known is None:
            known = value, *self._collection_weight(value, depth)
            self._weighed[id(value)] = known
        if depth + known[2] > _DEEPEST:
            raise OverBudgetError(f"it nests values more than {_DEEPEST} deep")
        return known[1]

    def _collection_weight(self, value: Collection[object], depth: int) -> tuple[int, int]:
        """The weight of a collection, and its nesting depth."""
        if depth > _DEEPEST:
            raise OverBudgetError(f"it nests values more than {_DEEPEST} deep")
        weight, height = 2, 0
        for item in value.items() if isinstance(value, dict) else value:
            weight += 2 + self.weight(item, depth + 1)
            self.fits(weight)
            height = max(height, self._weighed.get(id(item), (None, 0, 0))[2])
        return weight, height + 1

    def _measured(self, items: Iterator[Any]) -> Iterator[Any]:
        # Count the sum too, since the caller may collect all items in a list.
        total = 0
        for item in items:
            total += 2 + self.weight(item)
            self.fits(total)
            yield self.take(item)


def estimate(name: str, value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    """Upper bound of the result size of a filter or method that can enlarge its input; 0 for others.

    `value` is what it is called on. Raises `OverBudgetError` if there is no bound.
    """
    rule = _RULES.get(name)
    return 0 if rule is None else rule(value, arguments, budget)


def estimate_product(left: Any, right: Any, budget: Budget) -> int:
    """Upper bound of the size of `left * right`: strings and lists can be repeated."""
    if isinstance(right, int):
        left, right = right, left
    return abs(left) * budget.weight(right) if isinstance(left, int) and not isinstance(right, int) else 0


def estimate_power(left: Any, right: Any) -> None:
    """Raise `OverBudgetError` if `left ** right` is a huge number."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MOST_BITS:
        raise OverBudgetError(f"it makes a number of more than {_MOST_BITS} bits")


def estimate_format(pattern: Any, arguments: Iterable[Any], budget: Budget) -> float:
    """Upper bound of the size of `pattern % arguments` and `pattern.format(*arguments)`."""
    if not isinstance(pattern, str | bytes):
        return 0
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    if _COMPUTED_WIDTH.search(text):
        raise OverBudgetError("it computes the width of a format")
    if any(len(digits) > 9 for digits in _DIGITS.findall(text)):
        raise OverBudgetError("it has a format of absurd width")
    places = text.count("%") + text.count("{")
    longest = max((budget.weight(argument) for argument in arguments), default=0)
    # An escaped character takes up to ten characters.
    return len(text) + sum(map(int, _DIGITS.findall(text))) + places * 10 * longest


def _largest_number(arguments: Sequence[Any]) -> int:
    return max((argument for argument in arguments if isinstance(argument, int)), default=0)


def _padded(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    return budget.weight(value) + _largest_number(arguments)


def _padded_lines(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    text = str(value)
    widths = [len(argument) for argument in arguments if isinstance(argument, str)]
    width = max(8, _largest_number(arguments), *widths)
    return len(text) + (1 + text.count("\n") + text.count("\t")) * width


def _wrapped(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    return (budget.weight(value) + 1) * (1 + max(map(budget.weight, arguments), default=0))


def _replaced(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    old, new = (*map(str, arguments[:2]), "", "")[:2]
    return len(str(value)) + (str(value).count(old) + 1) * len(new)


def _joined(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    # For two strings, the separator may be either: method or filter.
    separator, items = (value, arguments[0]) if isinstance(value, str) and arguments else (list(arguments[:1]), value)
    count = len(items) if isinstance(items, list | tuple | dict | str) else 0
    return budget.weight(items) + count * budget.weight(separator)


def _translated(value: Any, arguments: Sequence[Any], budget: Budget) -> float:
    return float(budget.weight(value)) * (1 + sum(map(budget.weight, arguments)))


_RULES: dict[str, Callable[[Any, Sequence[Any], Budget], float]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "batch", "slice", "truncate", "to_bytes"), _padded),
    **dict.fromkeys(("indent", "expandtabs"), _padded_lines),
    "wordwrap": _wrapped,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    "strftime_now": lambda value, arguments, budget: estimate_format(next(iter(arguments), ""), [], budget),
    "format": estimate_format,
    "format_map": lambda value, arguments, budget: estimate_format(value, arguments, budget),
}
