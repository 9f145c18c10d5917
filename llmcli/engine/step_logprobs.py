"""Add probabilities to a step: of its token, and of the top candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.events import Candidate, Filter, SampledCandidate, Step
from llmcli.engine.logprobs import token_logprobs
from llmcli.engine.sampling.sampler import Sampler
from llmcli.text.tokenizer import Tokenizer


def with_probabilities(
    step: Step, choice: TokenChoice, sampler: Sampler, context: Sequence[int], tokenizer: Tokenizer, *, top: int
) -> Step:
    """`step` with the probabilities of its token after `context`, from `choice`, and of the `top` candidates."""
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
