"""Log-probability, rank, entropy and top-k of one token, from its logits; V is the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmcli.engine.decoders.token_source import Choice
from llmcli.engine.events import Candidate, Filter, SampledCandidate, Step
from llmcli.engine.sampler import Sampler
from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLogprobs:
    """A token in the distribution it comes from: the model's own, before temperature and filters."""

    logprob: float
    """Nats."""
    rank: int
    """1 where no token is more probable."""
    entropy: float
    """Of the whole distribution, nats."""
    top: tuple[Candidate, ...]


def token_logprobs(logits: Tensor, token: int, tokenizer: Tokenizer, *, top: int) -> TokenLogprobs:
    """Read `logits` (V,) of any float type, in which `token` is the one that came, with the `top` most probable."""
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


def with_probabilities(
    step: Step, choice: Choice, sampler: Sampler, context: Sequence[int], tokenizer: Tokenizer, *, top: int
) -> Step:
    """`step` with the numbers of its token, which `choice` gives after `context`, and of the `top` most probable."""
    logits, distribution = choice.logits, choice.distribution
    assert logits is not None and distribution is not None, "the source was asked for probabilities"
    stages: dict[Filter, Tensor] = {}
    if choice.allowed is not None:
        stages["constraint"] = choice.allowed > -torch.inf
    if top:
        stages |= sampler.stages(logits if choice.allowed is None else choice.allowed, context)
    seen = token_logprobs(logits, step.id, tokenizer, top=top)
    return replace(
        step,
        logprob=seen.logprob,
        entropy=seen.entropy,
        rank=seen.rank,
        sampled_prob=float(distribution[step.id]),
        top=tuple(_sampled(candidate, distribution, stages) for candidate in seen.top),
    )


def _sampled(candidate: Candidate, distribution: Tensor, stages: Mapping[Filter, Tensor]) -> SampledCandidate:
    removed_by = next((name for name, left in stages.items() if left[candidate.id] == 0), None)
    probability = float(distribution[candidate.id])
    return SampledCandidate(candidate.id, candidate.text, candidate.logprob, probability, removed_by)
