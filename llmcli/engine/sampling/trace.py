"""How one token was chosen: the most probable candidates, and their probabilities after each filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from llmcli.engine.events import Filter, SampledCandidate
from llmcli.engine.logprobs import token_logprobs
from llmcli.engine.sampling.params import SamplingParams
from llmcli.engine.sampling.sampler import sampler_for
from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TracedCandidate(SampledCandidate):
    """A candidate for the next token, and its probability after each filter."""

    rank: int
    """Rank by the model's own probability, from 1."""
    after: tuple[tuple[Filter, float], ...]
    """Its probability after each filter in turn."""


def choices(
    logits: Tensor,
    params: SamplingParams,
    context: Sequence[int],
    tokenizer: Tokenizer,
    *,
    top: int,
    taken: int | None = None,
) -> tuple[TracedCandidate, ...]:
    """The `top` most probable tokens after `context`, whose `logits` (V,) are given, and the one that was `taken`."""
    stages = sampler_for(params, tokenizer).stages(logits, context)
    own = int(logits.argmax()) if taken is None else taken
    seen = token_logprobs(logits, own, tokenizer, top=top)
    found = [(rank, candidate.id, candidate.logprob) for rank, candidate in enumerate(seen.top, 1)]
    if all(token != own for _, token, _ in found):
        found.append((seen.rank, own, seen.logprob))
    result = []
    for rank, token, logprob in found:
        after = tuple((name, float(left[token])) for name, left in stages.items())
        removed_by = next((name for name, left in after if left == 0), None)
        result.append(
            TracedCandidate(
                token, tokenizer.token_text(token), logprob, after[-1][1], removed_by, rank=rank, after=after
            )
        )
    return tuple(result)
