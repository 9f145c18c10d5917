"""Softmax attention itself: from queries, keys and values to their mixture.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.model.config import LayerConfig

# Scores held at a time, in float32: 64 MiB.
_SCORES_AT_ONCE = 1 << 24


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of the last T positions over all S (Vaswani et al. 2017, eq. 1), causal.

    `q` (B, H, T, D); `k`, `v` (B, K, S, D), the last T of them the queries' own; returns (B, H, T, D). `mask` (T, S)
    says which keys each query sees; without one, T is 1 and sees all, or T equals S and each sees all up to its own.
    """
    if q.shape[2] == 1:
        # One query sees every key, so the query heads of a group can stand in the place of T: no copy of k and v.
        grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # (B, K, H/K, D)
        return F.scaled_dot_product_attention(grouped, k, v, scale=scale).flatten(1, 2).unsqueeze(2)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_explicitly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Like `attend`, for what the fused kernels cannot do; values may be of another size than keys.

    With a `softcap` c, scores s become c tanh(s / c) (Gemma 2, arXiv:2408.00118, section 2). With `sinks` (H,), each
    head has one more score, whose value is zero (gpt-oss, arXiv:2508.10925, section 2.2).
    """
    batch, heads, new, _ = q.shape
    kv_heads, seen = k.shape[1:3]
    if mask is None and new > 1:
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril()
    parts = []
    step = max(1, _SCORES_AT_ONCE // (batch * heads * seen))
    for first in range(0, new, step):
        part = q[:, :, first : first + step]
        rows = part.shape[2]
        # The heads of a group share their keys: they are further rows of one product.
        grouped = part.reshape(batch, kv_heads, -1, part.shape[3])  # (B, K, H/K * T, D)
        scores = (grouped @ k.transpose(2, 3)).float().view(batch, heads, rows, seen) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask[first : first + step], -torch.inf)
        if sinks is not None:
            column = sinks.float().view(1, heads, 1, 1).expand(batch, heads, rows, 1)
            weights = torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        mixed = weights.to(v.dtype).reshape(batch, kv_heads, -1, seen) @ v  # (B, K, H/K * T, D)
        parts.append(mixed.view(batch, heads, rows, -1))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def visible_keys(layer: LayerConfig, start: int, new: int, device: torch.device) -> Tensor | None:
    """Which keys the `new` tokens from position `start` on see in a layer: boolean (T, S).

    The keys are those from the first that any of the tokens sees to the last token's own. None: each token sees all
    keys up to its own, and `attend` needs no mask.
    """
    first, end = layer.first_visible(start), start + new
    if new == 1 or (first == start and layer.first_visible(end - 1) <= first):
        return None
    query = torch.arange(start, end, device=device)[:, None]
    key = torch.arange(first, end, device=device)[None, :]
    mask = key <= query
    if layer.window is not None:
        mask &= key > query - layer.window
    if layer.chunk is not None:
        mask &= key // layer.chunk == query // layer.chunk
    return mask
