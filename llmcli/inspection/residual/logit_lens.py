"""Logit lens: the model's next-token distribution if it ended after each block (nostalgebraist 2020).

The residual stream after each block goes through the final norm, with its scale computed from that stream, and the
output head. This is the raw lens, without a trained translator per layer (Belrose et al. 2023, arXiv:2303.08112).

Dimension letters: L blocks, P positions, V vocabulary of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.inspection.core.activations import Trace, trace
from llmcli.inspection.core.distributions import kl_divergence
from llmcli.inspection.core.tokens import Token, TokenProb, token, token_prob, tokens
from llmcli.loaded_model import LoadedModel

# Logits held at a time, in float32: 64 MiB.
_LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class LensLayer:
    """The distribution after `layer` blocks; 0 is the embedding."""

    layer: int
    top: tuple[TokenProb, ...]
    rank: int
    """Rank of the followed token; 1 if no token is more probable."""
    kl: float
    """KL(final || layer) of the final distribution and this layer's, in nats."""


@dataclass(frozen=True)
class LensPosition:
    """One position of a text, layer by layer."""

    position: int
    token: Token
    """The followed token: the most probable one of the final distribution, unless another was requested."""
    layers: tuple[LensLayer, ...]
    """Layers 0 to L."""
    leads_from: int | None
    """The layer from which that token stays the most probable one; None if it is not the most probable at the end."""


@dataclass(frozen=True)
class Lens:
    """A text, and the logit lens at some of its positions."""

    tokens: tuple[Token, ...]
    lens: tuple[LensPosition, ...]


@torch.inference_mode()
def lens(
    loaded: LoadedModel,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    top: int = 5,
    follow: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Lens:
    """The lens at `positions` (ascending), with the `top` most probable tokens of every layer.

    `follow` gives the token to follow at each position, by default the most probable one.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such position.
    """
    traced = trace(loaded.model, ids, positions, progress=progress)
    return Lens(tokens(loaded.tokenizer, ids), lens_of(loaded, traced, top=top, follow=follow))


@torch.inference_mode()
def lens_of(
    loaded: LoadedModel,
    traced: Trace,
    *,
    top: int = 5,
    follow: Sequence[int] | None = None,
    logits_at_once: int = _LOGITS_AT_ONCE,
) -> tuple[LensPosition, ...]:
    """The lens at the positions of a trace; `follow` gives the token to follow at each position.

    At most `logits_at_once` logits are held at a time, but always those of one position.
    """
    found: list[LensPosition] = []
    step = max(1, logits_at_once // (loaded.tokenizer.vocab_size * len(traced.residuals)))
    for first in range(0, len(traced.positions), step):
        some = slice(first, first + step)
        found.extend(_positions_lens(loaded, traced, some, top, None if follow is None else follow[some]))
    return tuple(found)


def _positions_lens(
    loaded: LoadedModel, traced: Trace, some: slice, top: int, follow: Sequence[int] | None
) -> list[LensPosition]:
    """The lens at a few positions, all layers in one pass of the output head: it may decode its weights each time."""
    by_layer = log_probabilities(loaded, traced.residuals[:, some])  # (L + 1, P, V)
    final = by_layer[-1]
    followed = final.argmax(-1) if follow is None else torch.tensor(follow, device=final.device)
    positions = traced.positions[some]
    layers: list[list[LensLayer]] = [[] for _ in positions]
    for layer, logprobs in enumerate(by_layer):
        own = logprobs.gather(1, followed[:, None])
        ranks = ((logprobs > own).sum(1) + 1).tolist()
        divergences = kl_divergence(final, logprobs).tolist()
        best = logprobs.topk(min(top, logprobs.shape[1]))
        for row, (rank, kl) in enumerate(zip(ranks, divergences, strict=True)):
            candidates = zip(best.indices[row].tolist(), best.values[row].exp().tolist(), strict=True)
            seen = tuple(token_prob(loaded.tokenizer, candidate, prob) for candidate, prob in candidates)
            layers[row].append(LensLayer(layer, seen, rank, kl))
    return [
        LensPosition(position, token(loaded.tokenizer, int(target)), tuple(found), leads_from(found))
        for position, target, found in zip(positions, followed, layers, strict=True)
    ]


def log_probabilities(loaded: LoadedModel, residual: Tensor) -> Tensor:
    """Log-probabilities (..., V) of a residual stream (..., C) through final norm and output head; float32.

    Rows of the output head without a token in the tokenizer are left out.
    """
    logits = loaded.model.unembed(residual.to(loaded.model.dtype))[..., : loaded.tokenizer.vocab_size]
    return logits.float().log_softmax(-1)


def leads_from(layers: Sequence[LensLayer]) -> int | None:
    """The layer from which the followed token stays the most probable one; None if it is not at the end."""
    since = None
    for layer in layers:
        since = None if layer.rank > 1 else layer.layer if since is None else since
    return since
