"""Numbers that may be infinite, as a person reads them: a sum of surprises can be too great for a float."""

from __future__ import annotations

import math


def number(value: float, spec: str) -> str:
    """`value` formatted as `spec` says, or ∞ with its sign where the format shows one."""
    if not math.isinf(value):
        return format(value, spec)
    sign = "-" if value < 0 else "+" if "+" in spec else ""
    return f"{sign}∞"
