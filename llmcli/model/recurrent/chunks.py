"""Chunks of tokens, within which recurrent layers compute with matrix products, and the decay inside of a chunk.

Dimension letters: B batch, T tokens, H heads, N chunks, n tokens of a chunk, D values that are summed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
"""Tokens of a chunk: a power of two."""
SHORT = 16
"""Texts up to this length are read token by token, which is faster then."""


def split_into_chunks(x: Tensor) -> Tensor:
    """(B, T, H, D) as (B, H, N, n, D), with zeros after the last token."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK)).transpose(1, 2)
    return x.reshape(*x.shape[:2], -1, CHUNK, x.shape[-1])


def decay_between(log_decay: Tensor) -> Tensor:
    """The decay between the tokens of a chunk, from the logarithm of each token's: (..., n, 1) -> (..., n, n).

    It is the product of the decays of the tokens after j up to i, and zero for j after i.
    """
    return _since(log_decay).exp().tril()


def log_decay_between(log_decay: Tensor) -> Tensor:
    """The logarithm of `decay_between`, minus infinity for j after i."""
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=log_decay.device).triu(1)
    return _since(log_decay).masked_fill(later, -torch.inf)


def _since(log_decay: Tensor) -> Tensor:
    """Sums of (..., n, 1) over the tokens after j up to i, (..., n, n); zero for j after i.

    Each sum starts at its own j: differences of sums from the start of the chunk would lose the small numbers behind a
    large one.
    """
    return log_decay.expand(*log_decay.shape[:-1], CHUNK).tril(-1).cumsum(-2)


def sums_after(x: Tensor) -> Tensor:
    """For each token, the sum over the later ones; `x` (..., n, D)."""
    return F.pad(x[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)
