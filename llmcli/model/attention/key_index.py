"""An index that chooses the keys a token attends to, by a score that is cheaper than attention.

Dimension letters: B batch, T new tokens, S keys, C hidden size, Q size of the compressed query, I heads of the index,
E size of a key of the index.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.attention.rope import rotate
from llmcli.model.config import KeyIndexConfig, LatentConfig, ModelConfig, NormStyle
from llmcli.model.norm import make_norm

# Fixed in the models that have an index.
_EPS = 1e-6
# Scores of single heads in memory at a time, in float32: 64 MiB.
_SCORES_AT_ONCE = 1 << 24


class KeyIndex(nn.Module):
    """The lightning indexer (DeepSeek-V3.2, arXiv:2512.02556, section 2.1, eq. 1).

    The score of a key is the sum over heads of `w relu(q . k)`, where `q` comes from the compressed query, and the
    weight `w` of the head from the hidden state. The released models also rotate `q` and `k` by a Hadamard matrix,
    which changes no product, and round them to 8 bits; neither is done here.
    """

    def __init__(self, config: ModelConfig, latent: LatentConfig, index: KeyIndexConfig) -> None:
        super().__init__()
        if latent.query_rank is None:
            raise ValueError("an index of keys reads compressed queries")
        self.config, self.rope_dim = index, latent.rope_dim
        self.q_proj = nn.Linear(latent.query_rank, index.heads * index.size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, index.size, bias=False)
        self.k_norm = make_norm(index.size, _EPS, NormStyle("layer", bias=True))
        self.weight_proj = nn.Linear(config.hidden_size, index.heads, bias=False)

    def keys(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """The keys of the tokens `x` (B, T, C), which are cached: (B, 1, T, E)."""
        return self._rotated(self.k_norm(self.k_proj(x)).unsqueeze(1), rotation)

    def choose(
        self, x: Tensor, query: Tensor, keys: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor | None:
        """The `keys` (B, 1, S, E) that each of the tokens `x` (B, T, C) attends to: a mask (B, T, S).

        `query` (B, T, Q) is their compressed query; `mask` (T, S) the keys that they may see, None: all up to
        themselves. Returns None if there are no more keys than the index chooses, so that each sees all it may see.
        """
        new, seen = x.shape[1], keys.shape[2]
        if seen <= self.config.chosen:
            return None
        if mask is None:
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        q = self.q_proj(query).view(*x.shape[:2], self.config.heads, -1).transpose(1, 2)
        q = self._rotated(q, rotation).transpose(1, 2)  # (B, T, I, E)
        return best_keys(self.config, q, keys, head_weights(self.config, x, self.weight_proj), mask)

    def _rotated(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Queries or keys (B, heads, T, E) with their first values rotated."""
        if rotation is None:
            return x
        return torch.cat((rotate(x[..., : self.rope_dim], *rotation), x[..., self.rope_dim :]), dim=-1)


def head_weights(index: KeyIndexConfig, x: Tensor, projection: nn.Linear) -> Tensor:
    """The weights of the heads of an index for the tokens `x` (B, T, C): float32, (B, T, I)."""
    weights: Tensor = nn.functional.linear(x.float(), projection.weight.float()) * index.heads**-0.5
    return weights


def best_keys(index: KeyIndexConfig, q: Tensor, keys: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """The keys with the best scores among those that `mask` (T, S) shows: a mask (B, T, S).

    `q` (B, T, I, E) are the queries of the index, `keys` (B, 1, S, E) its keys, `weights` (B, T, I) those of its heads.
    """
    new, seen = q.shape[1], keys.shape[2]
    k = keys.float().transpose(2, 3)  # (B, 1, E, S)
    parts = []
    step = max(1, _SCORES_AT_ONCE // (len(q) * index.heads * seen))
    for first in range(0, new, step):
        rows = slice(first, first + step)
        products = torch.relu(q[:, rows].float() @ k * index.size**-0.5)  # (B, rows, I, S)
        scores = (weights[:, rows, None] @ products).squeeze(2)  # (B, rows, S)
        best = scores.masked_fill(~mask[rows], -torch.inf).topk(index.chosen, dim=-1).indices
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        parts.append(chosen & mask[rows])
    return torch.cat(parts, dim=1)
