"""Format numbers that may be infinite (a sum of surprisals can overflow a float), and convert nats to bits."""

from __future__ import annotations

import math


def number(value: float, spec: str) -> str:
    """`value` formatted by `spec`; infinities become ∞, with a sign if the format shows one."""
    if not math.isinf(value):
        return format(value, spec)
    sign = "-" if value < 0 else "+" if "+" in spec else ""
    return f"{sign}∞"


def bits(nats: float) -> float:
    """Entropy, surprisal, divergence or loss in bits, the unit on the screen; results and JSON hold nats."""
    # Adding 0 turns -0.0 into 0.0.
    return nats / math.log(2) + 0.0
