"""How the next token is to be chosen and when to stop: validated once, then trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmcli.errors import UsageError


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one reply.

    Filters apply in the order of the fields. Raises `UsageError` on creation if a value makes no sense.
    """

    repeat_penalty: float = 1.0
    """Divides the logits of tokens already in the context (multiplies negative ones): Keskar et al. 2019,
    arXiv:1909.05858, eq. 1 of section 4.1. 1 is off."""
    temperature: float = 0.8
    """Divides the logits. 0 always takes the most probable token."""
    top_k: int = 40
    """Keep the k most probable tokens. 0 is off."""
    top_p: float = 0.95
    """Keep the fewest tokens that together reach this probability (Holtzman et al. 2020, arXiv:1904.09751). 1: off."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the best (Nguyen et al. 2024, arXiv:2407.01082). 0: off."""
    seed: int | None = None
    """The same seed gives the same text on the same machine; None draws one."""
    max_tokens: int | None = None
    """The most tokens to generate; None is as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; they are not part of it. They are looked for in the answer."""
    stop_in_thinking: bool = False
    """Whether `stop` ends a thought, too."""

    def __post_init__(self) -> None:
        for name, valid, needed in (
            ("repeat_penalty", self.repeat_penalty > 0, "more than 0"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("seed", self.seed is None or 0 <= self.seed < 1 << 63, "from 0 to 2^63 - 1"),
            ("max_tokens", self.max_tokens is None or self.max_tokens > 0, "1 or more"),
            ("stop", all(self.stop), "not empty"),
        ):
            value = getattr(self, name)
            if not valid or (isinstance(value, float) and not math.isfinite(value)):
                raise UsageError(f"{name.replace('_', '-')} must be {needed}, not {value}.")
