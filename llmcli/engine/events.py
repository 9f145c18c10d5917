"""What happens while a reply is generated: plain, frozen values that any front end can show or write down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "stop_string", "context", "interrupted"]


@dataclass(frozen=True)
class Prefill:
    """The prompt has been read."""

    tokens: int
    """All tokens of the prompt."""
    cached: int
    """How many of them were still in the KV cache and not read again."""
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A token the model could have said."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Step:
    """One generated token.

    `logprob`, `entropy` (both in nats) and `top` describe the model's own distribution, before temperature and filters;
    `sampled_prob` is the probability the token had after them. All four are None or empty when nobody asked.
    """

    index: int
    id: int
    text: str
    """New text, safe to print. Empty while a character is incomplete or could still begin a stop string."""
    logprob: float | None = None
    entropy: float | None = None
    sampled_prob: float | None = None
    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Stats:
    """What a reply cost. Times in seconds; speeds are None where nothing was measured."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    ttft_s: float | None
    """From the request to the first token."""
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory_bytes: int
    path: str
    """Which implementation computed the tokens."""


@dataclass(frozen=True)
class Finish:
    """The reply is over."""

    reason: FinishReason
    stats: Stats
    text: str = ""
    """Text that had been held back and is part of the reply after all."""


Event: TypeAlias = Prefill | Step | Finish
