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
    """A token proposed before the model's pass."""

    token: int
    origin: Origin
    distribution: Tensor | None = None
    """The distribution (V,) it was sampled from; None: it was not sampled, so its probability was 1."""


def accept_or_resample(distribution: Tensor, proposal: Proposal | None, sampler: Sampler) -> int:
    """The next token: the proposed one, or another of the model's `distribution` (V,).

    Whatever was proposed, each token has the probability that `distribution` p gives it: a proposal x, drawn from q, is
    accepted with the probability min(1, p(x) / q(x)); if it is rejected, the next token is drawn from max(0, p - q).
    """
    if proposal is None or proposal.distribution is None:
        # If q(x) = 1, one draw from p does both steps: it gives x with the probability p(x), and any other token as p
        # without x does, which is max(0, p - q). So the token is the same as without a proposal, for the same seed.
        return sampler.draw(distribution)
    proposed = proposal.distribution.to(distribution.device)
    if sampler.uniform() * float(proposed[proposal.token]) < float(distribution[proposal.token]):
        return proposal.token
    rest = (distribution - proposed).clamp_(min=0)
    # If p and q differ only by rounding, nothing may be left; then either distribution is right.
    return sampler.draw(rest if bool(rest.any()) else distribution)
