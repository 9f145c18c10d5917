"""Rejection sampling: accept a proposed token or resample, so that the reply has the model's own distribution.

Leviathan et al. 2023 (arXiv:2211.17192), algorithm 1; Chen et al. 2023 (arXiv:2302.01318), algorithm 2. V is the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llmcli.engine.events import Origin
from llmcli.engine.sampling.sampler import Sampler


@dataclass(frozen=True)
class Proposal:
    """A token that could come next, proposed before the model's pass."""

    token: int
    origin: Origin
    distribution: Tensor | None = None
    """What it was sampled from, (V,); None: it was not sampled, so its probability was 1."""


def accept_or_resample(distribution: Tensor, proposal: Proposal | None, sampler: Sampler) -> int:
    """The next token: the proposed one, or another of the model's `distribution` (V,).

    The chance of each token is what `distribution` gives it, whatever was proposed: a token x, drawn from q, is taken
    with the probability min(1, p(x) / q(x)), and where it is not, the next token is drawn from max(0, p - q).
    """
    if proposal is None or proposal.distribution is None:
        # Where q(x) = 1, a draw from p does both at once: x comes with p(x), anything else with what p is without x,
        # which is max(0, p - q). So it is the draw there would have been without a proposal, from the same number.
        return sampler.draw(distribution)
    proposed = proposal.distribution.to(distribution.device)
    if sampler.uniform() * float(proposed[proposal.token]) < float(distribution[proposal.token]):
        return proposal.token
    rest = (distribution - proposed).clamp_(min=0)
    # Where both are the same but for rounding there may be no rest, and either will do.
    return sampler.draw(rest if bool(rest.any()) else distribution)
