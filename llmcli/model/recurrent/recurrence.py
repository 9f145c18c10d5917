"""A recurrence as a module, so that views can see what goes into it and change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

Rule: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""`delta_rule`, `ssd` or `selective_scan`: outputs of all tokens, and the memory after the last."""


class Recurrence(nn.Module):
    """Calls `rule`; it has no parameters."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """The outputs and the memory of `rule` for its inputs, the last of which is the memory before."""
        return self.rule(*inputs)
