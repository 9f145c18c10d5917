"""The events of a reply: plain, frozen values that any front end can show or store."""

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
    """A candidate for a token."""

    id: int
    text: str
    logprob: float


Origin: TypeAlias = Literal["model", "draft", "lookup"]
"""What proposed a token: the model itself, or a draft model or a lookup in the text, which the model confirmed."""
Filter: TypeAlias = Literal[
    "constraint",
    "logit_bias",
    "penalties",
    "dry",
    "top_n_sigma",
    "temperature",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
]
"""What can rule a token out: the form that the reply must have, and the filters of sampling, in order. A temperature of
0 rules out all but the most probable one; penalties, a bias or DRY rule one out where no probability is left."""


@dataclass(frozen=True)
class SampledCandidate(Candidate):
    """A candidate for a token, and its probability after the filters."""

    sampled_prob: float
    """Its probability after all of them."""
    removed_by: Filter | None
    """The filter that ruled it out."""


@dataclass(frozen=True)
class Read:
    """Something that attention read: the token at `position`, or a longer span that begins there."""

    position: int
    text: str
    weight: float
    """Its share of the attention that was not on sink and self, 0 to 1."""


@dataclass(frozen=True)
class AttentionRow:
    """What the token at `position` attended to when the token after it was chosen."""

    position: int
    sink: float
    """The share of attention on the first token, over all heads: heads that look for nothing attend to it."""
    self: float
    """The share on the token itself; 0 for the first, which is its own sink."""
    read: tuple[Read, ...]
    """What was read most, without these two."""


@dataclass(frozen=True)
class Step:
    """One generated token.

    `logprob`, `entropy` (both in nats), `rank` and the order of `top` are those of the model's own distribution, before
    temperature and filters; `sampled_prob` is the token's probability after them. All are None or empty unless
    probabilities were asked for.
    """

    index: int
    id: int
    text: str
    """New text, safe to print. Empty while a character is incomplete or could still begin a stop string."""
    logprob: float | None = None
    entropy: float | None = None
    rank: int | None = None
    """Rank of the token by probability, from 1."""
    sampled_prob: float | None = None
    top: tuple[SampledCandidate, ...] = ()
    attention: AttentionRow | None = None
    """The attention of this step. An engine leaves it None: attention is computed after the reply, if at all."""
    origin: Origin = "model"
    thinking: str = ""
    """New text of a thought, if thoughts are separated from the answer; otherwise it is in `text`, with its marks."""


@dataclass(frozen=True)
class Stats:
    """Tokens, times in seconds and speeds of a reply; speeds are None where nothing was measured."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    ttft_s: float | None
    """From the request to the first token."""
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory_bytes: int
    path: str
    """The name of the step that computed the tokens."""
    proposed_tokens: int = 0
    """Tokens that a draft model or the text itself proposed."""
    accepted_tokens: int = 0
    """How many of them the model accepted."""
    acceptance_rate: float | None = None
    """Their share; None where nothing was proposed."""
    tokens_per_pass: float | None = None
    """Tokens per pass of the model, without prefill; None where nothing could be proposed."""
    speculative_gain: float | None = None
    """Speed relative to passes of one token, as far as any were made; None without any."""


@dataclass(frozen=True)
class Finish:
    """The reply is over."""

    reason: FinishReason
    stats: Stats
    text: str = ""
    """Text that had been held back and is part of the reply after all."""
    thinking: str = ""
    """Text of a thought that had been held back."""


Event: TypeAlias = Prefill | Step | Finish
