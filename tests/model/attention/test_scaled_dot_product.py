"""Fused attention gives the result of softmax attention, for any number of heads at a time."""

from __future__ import annotations

import pytest
import torch

from llmcli.model.attention.scaled_dot_product import SoftmaxAttention, visible_keys
from llmcli.model.config import LayerConfig

HEADS, KV_HEADS, SIZE, NEW, START = 6, 2, 8, 5, 7


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("heads_at_once", [1, 2, HEADS])
def test_heads_that_share_keys_under_a_mask(window: int | None, heads_at_once: int) -> None:
    mask = visible_keys(LayerConfig(None, window=window), START, NEW, torch.device("cpu"))
    assert mask is not None
    # Strides as after the query projection: the heads of a token are adjacent.
    q = random(2, NEW, HEADS, SIZE, seed=1).transpose(1, 2)
    k, v = (random(2, KV_HEADS, mask.shape[1], SIZE, seed=seed) for seed in (2, 3))
    attend = SoftmaxAttention(SIZE**-0.5, scores_at_once=heads_at_once * mask.numel())
    seen = attend.weights(q, k, mask) @ v.repeat_interleave(HEADS // KV_HEADS, dim=1)
    assert torch.allclose(attend(q, k, v, mask), seen, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_uses_no_cudnn_plan_and_never_holds_all_scores() -> None:
    heads, kv_heads, new, start = 32, 8, 1024, 3072
    mask = visible_keys(LayerConfig(None), start, new, torch.device("cuda"))
    assert mask is not None
    q = torch.randn(1, heads, new, 64, device="cuda", dtype=torch.float16)
    k, v = (torch.randn(1, kv_heads, start + new, 64, device="cuda", dtype=torch.float16) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    before, planned = torch.cuda.memory_allocated(), torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    mixed = SoftmaxAttention(0.125)(q, k, v, mask)
    # All scores would be 256 MiB in 16 bits; copies of keys and values 32 MiB.
    assert torch.cuda.max_memory_allocated() - before < 120 << 20
    assert torch.backends.cuda.cudnn_sdp_enabled() == planned  # type: ignore[no-untyped-call]
    exact = SoftmaxAttention(0.125, fused=False)(q.float(), k.float(), v.float(), mask)
    assert float((mixed.float() - exact).norm() / exact.norm()) < 2e-3
