"""Scaled dot-product attention: softmax over queries times keys, then the weighted sum of the values.

Dimension letters: B batch, T new tokens, S keys, H query heads, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.config import LayerConfig

# Attention scores in memory at a time, in float32: 64 MiB.
_SCORES_AT_ONCE = 1 << 24


class SoftmaxAttention(nn.Module):
    """Softmax attention of the last T positions over all S (Vaswani et al. 2017, eq. 1), causal.

    A module without parameters, so a forward hook can observe its queries, keys and values.
    """

    slopes: Tensor | None

    def __init__(
        self,
        scale: float,
        *,
        softcap: float | None = None,
        fused: bool = True,
        slopes: list[float] | None = None,
        biases_as_scores: bool = False,
        scores_at_once: int = _SCORES_AT_ONCE,
    ) -> None:
        """`scale` is the factor on the scores; with a `softcap` c, scores s become c tanh(s / c) (Gemma 2,
        arXiv:2408.00118, section 2). `fused` kernels need no softcap, and values of the size of keys: smaller ones
        are filled up.
        With `slopes`, one for each head, scores fall linearly with the distance; with `biases_as_scores`, these biases
        are rounded to bfloat16 and multiplied by the scale.
        At most `scores_at_once` scores are in memory at a time, and never fewer than those of one query and one head.
        """
        super().__init__()
        self.scale, self.softcap, self.scores_at_once = scale, softcap, scores_at_once
        self.fused = fused and softcap is None and slopes is None
        self.biases_as_scores = biases_as_scores
        # Computed from the configuration, so they are neither in the checkpoint nor ever on the `meta` device.
        self.register_buffer("slopes", None if slopes is None else torch.tensor(slopes, device="cpu"), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None = None) -> Tensor:
        """Attend from `q` (B, H, T, D) to `k` (B, K, S, D) and `v` (B, K, S, D'); returns (B, H, T, D').

        The queries are at the last T of the S positions. `mask` (T, S) is True where a query sees a key. Without a mask
        either T is 1 and the query sees all keys, or T equals S and attention is causal. With `sinks` (H,), each head
        has one more score, whose value is zero (gpt-oss, arXiv:2508.10925, section 2.2).
        """
        if not self.fused or sinks is not None or (q.device.type == "cpu" and not _are_numbers(q, k)):
            return self._explicitly(q, k, v, mask, sinks)
        size, missing = v.shape[3], k.shape[3] - v.shape[3]
        if missing:
            # On a CPU zeros cost less than scores in memory, except for a single query.
            if q.device.type != "cpu" or q.shape[2] == 1 or missing < 0:
                return self._explicitly(q, k, v, mask, sinks)
            return self._by_fused_kernel(q, k, F.pad(v, (0, missing)), mask)[..., :size]
        return self._by_fused_kernel(q, k, v, mask)

    def _by_fused_kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        with _without_plans() if q.is_cuda else nullcontext():
            if mask is None and q.shape[2] > 1:
                return F.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=self.scale, enable_gqa=q.shape[1] != k.shape[1]
                )
            heads = q.view(len(q), k.shape[1], -1, *q.shape[2:])  # (B, K, H/K, T, D)
            step = heads.shape[2] if mask is None else max(1, self.scores_at_once // mask.numel())
            parts = [
                self._grouped(heads[:, :, first : first + step], k, v, mask) for first in range(0, heads.shape[2], step)
            ]
            return (torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]).flatten(1, 2)

    def _grouped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries `q` (B, K, N, T, D), N heads for each kv head: (B, K, N, T, D').

        Query heads that share keys are passed as further queries of one head. On a GPU, PyTorch would otherwise copy
        `k` and `v` for each head and hold all scores at once where there is a mask.
        """
        if mask is not None and q.shape[2] > 1:
            mask = mask.repeat(q.shape[2], 1)  # (N T, S)
        mixed = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=mask, scale=self.scale)
        return mixed.view(*q.shape[:4], v.shape[3])

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None) -> Tensor:
        """Attention weights of queries `q` (B, H, T, D) on keys `k` (B, K, S, D): float32, (B, H, T, S).

        `mask` (T, S) is True where a query sees a key; None: all keys. A row sums to 1, with `sinks` to 1 minus the
        sink's weight.
        """
        batch, heads, new, _ = q.shape
        kv_heads, seen = k.shape[1:3]
        # The query heads of a group share their keys: they become further rows of one matrix product.
        grouped = q.reshape(batch, kv_heads, -1, q.shape[3])  # (B, K, H/K * T, D)
        # For few rows, keys times queries is twice as fast on a CPU as queries times keys.
        scores = grouped @ k.transpose(2, 3) if new > 1 else (k @ grouped.transpose(2, 3)).transpose(2, 3)
        scores = scores.float().reshape(batch, heads, new, seen) * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.slopes is not None:
            scores = scores + self._biases(self.slopes, seen)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        if sinks is None:
            return scores.softmax(-1)
        column = sinks.float().view(1, heads, 1, 1).expand(batch, heads, new, 1)
        return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]

    def _biases(self, slopes: Tensor, seen: int) -> Tensor:
        """What is added to the scores of S keys: (H, 1, S). The same shift of all keys changes no weight."""
        keys = torch.arange(seen, device=slopes.device)
        if self.biases_as_scores:
            return (slopes[:, None, None].bfloat16() * keys).float() * self.scale
        return slopes[:, None, None].float() * (keys + 1 - seen)

    def _explicitly(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None) -> Tensor:
        batch, heads, new, _ = q.shape
        kv_heads, seen = k.shape[1:3]
        if mask is None and new > 1:
            mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril()
        parts = []
        step = max(1, self.scores_at_once // (batch * heads * seen))
        for first in range(0, new, step):
            rows = slice(first, first + step)
            weights = self.weights(q[:, :, rows], k, None if mask is None else mask[rows], sinks).to(v.dtype)
            mixed = weights.reshape(batch, kv_heads, -1, seen) @ v  # (B, K, H/K * T, D')
            parts.append(mixed.view(batch, heads, -1, v.shape[3]))
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def attend_chosen(
    attend: SoftmaxAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, chosen: Tensor | None
) -> Tensor:
    """`attend` to the keys that `mask` (T, S) shows, or of each text to those that are `chosen`, (B, T, S)."""
    if chosen is None:
        mixed: Tensor = attend(q, k, v, mask)
        return mixed
    texts = (slice(text, text + 1) for text in range(len(q)))
    return torch.cat([attend(q[one], k[one], v[one], chosen[one][0]) for one in texts])


def alibi_slopes(heads: int) -> list[float]:
    """One slope for each head: geometric down to 1/256, and for other numbers than powers of two more between them."""
    whole = 1 << (heads - 1).bit_length()
    slopes = [2.0 ** (-8 * index / whole) for index in range(1, whole + 1)]
    return slopes if whole == heads else [*slopes[1::2], *slopes[0::2]][:heads]


def _are_numbers(q: Tensor, k: Tensor) -> bool:
    """Whether queries and the new keys are finite; PyTorch's fused CPU kernel hides NaN and infinity."""
    return bool(q.isfinite().all() and k[:, :, -q.shape[2] :].isfinite().all())


@contextmanager
def _without_plans() -> Iterator[None]:
    """Disable cuDNN's fused attention, which PyTorch 2.11 and later prefer, inside the block.

    cuDNN plans its kernels again for each number of queries and keys, so for nearly every prompt, which takes 0.4 s
    (https://github.com/modelscope/FunASR/issues/3704).
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


def visible_keys(layer: LayerConfig, start: int, new: int, device: torch.device) -> Tensor | None:
    """The attention mask of the `new` tokens from position `start` on in a layer: boolean (T, S), True where visible.

    The S keys begin at the first that any of the tokens sees and end at the last token. None where plain causal
    attention is right, for a single token, or where the layer has no attention.
    """
    if not layer.attends:
        return None
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
