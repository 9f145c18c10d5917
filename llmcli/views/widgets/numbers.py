"""Format numbers that may be infinite: a sum of surprisals can overflow a float."""

from __future__ import annotations

import math


def number(value: float, spec: str) -> str:
    """`value` formatted by `spec`; infinities become ∞, with a sign if the format shows one."""
    if not math.isinf(value):
        return format(value, spec)
    sign = "-" if value < 0 else "+" if "+" in spec else ""
    return f"{sign}∞"
