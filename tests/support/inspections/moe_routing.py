"""Routing of tokens to experts, to be drawn."""

from __future__ import annotations

from llmcli.inspection.core.tokens import Token
from llmcli.inspection.feed_forward.moe_routing import ExpertWeight, LayerRouting

TOKENS = (Token(1, "<s>", b"<s>"), Token(2, " Paris", b" Paris"), Token(3, "\x1b\n", b"\x1b\n"))


def layer(block: int, experts: int, rows: list[list[tuple[int, float]]]) -> LayerRouting:
    slots = [expert for row in rows for expert, _ in row]
    load = tuple(slots.count(expert) / len(slots) for expert in range(experts))
    routing = tuple(tuple(ExpertWeight(*item) for item in row) for row in rows)
    return LayerRouting(block, experts, len(rows[0]), load, 1.04, 0.75, routing)


FIRST = layer(1, 4, [[(0, 0.75), (1, 0.25)], [(0, 0.6), (3, 0.4)], [(0, 0.51), (1, 0.49)]])
SECOND = layer(2, 4, [[(2, 1.5), (1, 1.0)], [(3, 2.0), (2, 0.5)], [(1, 1.25), (2, 1.25)]])
