"""Log-probability, rank, entropy and top-k of one token, from its logits; V is the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llmcli.engine.events import Candidate
from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLogprobs:
    """A token in the model's own distribution, before temperature and filters."""

    logprob: float
    """Nats."""
    rank: int
    """Rank by probability, from 1."""
    entropy: float
    """Of the whole distribution, nats."""
    top: tuple[Candidate, ...]


def token_logprobs(logits: Tensor, token: int, tokenizer: Tokenizer, *, top: int) -> TokenLogprobs:
    """The values of `token` in `logits` (V,) of any float type, and the `top` most probable tokens."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs[token]
    best, ids = logprobs.topk(min(top, len(logprobs)))
    return TokenLogprobs(
        logprob=float(own),
        rank=int((logprobs > own).sum()) + 1,
        # A masked entry has log-probability -inf and contributes nothing: 0 * -inf would be NaN.
        entropy=float(-(logprobs.exp() * logprobs.clamp(min=-1e30)).sum()),
        top=tuple(
            Candidate(candidate, tokenizer.token_text(candidate), logprob)
            for candidate, logprob in zip(ids.tolist(), best.tolist(), strict=True)
        ),
    )
