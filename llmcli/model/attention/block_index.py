"""An index that chooses blocks of consecutive keys for a token, by a score that is cheaper than attention (Qwen4-exp).

Formulas: transformers 5.24, models/qwen4_exp.

Dimension letters: B batch, T new tokens, S keys, N blocks of keys, C hidden size, K kv heads, V size of a value,
I heads of the index, E size of a key of the index, P size of what a kv head caches of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.rope import rotate
from llmcli.model.config import BlockIndexConfig, ModelConfig
from llmcli.model.norm import make_norm

Rotation = tuple[Tensor, Tensor]
# Scores of single heads in memory at a time, in float32: 64 MiB.
_SCORES_AT_ONCE = 1 << 24


class BlockIndex(nn.Module):
    """Scores whole blocks by the mean of their keys, and keeps the best.

    The score of a block is the sum over heads of `relu(q . k)`, where `k` is the mean of the index keys of its tokens,
    normalized and rotated to the position of the first. A token sees the best blocks among those that end before or at
    it, and the tokens behind the last of these.
    """

    def __init__(self, config: ModelConfig, index: BlockIndexConfig, *, scores_at_once: int = _SCORES_AT_ONCE) -> None:
        """At most `scores_at_once` scores of single heads are in memory, and never fewer than those of one token."""
        super().__init__()
        self.config, self.scores_at_once = index, scores_at_once
        self.q_proj = nn.Linear(config.hidden_size, index.heads * index.size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, index.size, bias=False)
        self.q_norm = make_norm(index.size, config.norm_eps, config.norm)
        self.k_norm = make_norm(index.size, config.norm_eps, config.norm)

    def beside(self, x: Tensor, values: Tensor) -> Tensor:
        """The `values` (B, K, T, V) of the tokens `x` (B, T, C) with their index keys, to be cached: (B, K, T, V + P).

        There is one key for all heads, so that each head caches a part of it.
        """
        heads = values.shape[1]
        keys = self.k_proj(x)  # (B, T, E)
        keys = F.pad(keys, (0, -keys.shape[-1] % heads)).view(*x.shape[:2], heads, -1)  # (B, T, K, P)
        return torch.cat((values, keys.transpose(1, 2)), dim=-1)

    def apart(self, cached: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B, K, S, V) and index keys (B, S, E) in what `beside` returned, (B, K, S, V + P)."""
        part = -(-self.config.size // cached.shape[1])
        keys = cached[..., -part:].transpose(1, 2).flatten(2)[..., : self.config.size]
        return cached[..., :-part], keys

    def choose(self, x: Tensor, keys: Tensor, rotation: Rotation | None, starts: Rotation | None) -> Tensor | None:
        """The `keys` (B, S, E) that each of the last tokens `x` (B, T, C) attends to: a mask (B, T, S).

        `rotation` is that of the tokens, `starts` that of the first tokens of all whole blocks. Returns None if there
        are no more blocks than the index chooses, so that each token sees all up to itself.
        """
        new, seen, size = x.shape[1], keys.shape[1], self.config.block
        blocks = seen // size
        if blocks <= self.config.chosen:
            return None
        grouped = keys[:, : blocks * size].reshape(len(x), blocks, size, -1)  # (B, N, keys of a block, E)
        means = grouped.float().mean(2).to(keys.dtype)  # (B, N, E)
        k = _rotated(self.k_norm(means).unsqueeze(1), starts)  # (B, 1, N, E)
        q = self.q_norm(self.q_proj(x).view(*x.shape[:2], self.config.heads, -1)).transpose(1, 2)
        q = _rotated(q, rotation).transpose(1, 2).float()  # (B, T, I, E)
        # Blocks that end before or at each token.
        whole = (torch.arange(seen - new, seen, device=x.device) + 1) // size  # (T,)
        at = torch.arange(seen, device=x.device)
        parts = []
        step = max(1, self.scores_at_once // (len(x) * self.config.heads * blocks))
        for first in range(0, new, step):
            rows = slice(first, first + step)
            scores = torch.relu(q[:, rows] @ k.float().transpose(2, 3)).sum(2)  # (B, rows, N)
            scores = scores.masked_fill(at[:blocks] >= whole[rows, None], -torch.inf)
            chosen = _best(scores, self.config.chosen).repeat_interleave(size, dim=-1)
            chosen = F.pad(chosen, (0, seen - blocks * size))  # (B, rows, S)
            behind = at >= whole[rows, None] * size
            until = at <= (seen - new + torch.arange(new, device=x.device)[rows])[:, None]
            parts.append((chosen | behind) & until)
        return torch.cat(parts, dim=1)


def _best(scores: Tensor, count: int) -> Tensor:
    """Which of the `scores` (..., N) are the `count` greatest; of equal ones the first, as many are zero."""
    least = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    return above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


def _rotated(x: Tensor, rotation: Rotation | None) -> Tensor:
    """Queries or keys (B, heads, T, E) with their first values rotated."""
    return x if rotation is None else rotate(x, *rotation)
