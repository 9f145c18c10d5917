from __future__ import annotations

import itertools

import pytest
import torch

from llmcli.model import (
    FrequencyFactors,
    KVCache,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    RopeConfig,
    YarnScaling,
)
from llmcli.model.attention.rope import inverse_frequencies, rotate
from llmcli.model.attention.scaled_dot_product import SoftmaxAttention, visible_keys

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    context_length=1000,
    norm_eps=1e-5,
    layers=(LayerConfig(RopeConfig(1e4, 4)),) * 3,
)


def naive_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Attention by the textbook formula, one query at a time."""
    heads, new, seen = q.shape[1], q.shape[2], k.shape[2]
    group = heads // k.shape[1]
    out = torch.zeros_like(q)
    for head, index in itertools.product(range(heads), range(new)):
        position = seen - new + index
        first = 0 if window is None else max(0, position - window + 1)
        keys = k[:, head // group, first : position + 1]
        weights = (torch.einsum("bd,bsd->bs", q[:, head, index], keys) * scale).softmax(-1)
        out[:, head, index] = torch.einsum("bs,bsd->bd", weights, v[:, head // group, first : position + 1])
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("new", "seen"), [(1, 1), (1, 9), (5, 5), (4, 9)])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_is_the_textbook_formula(window: int | None, new: int, seen: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 6, new, 8)
    k, v = torch.randn(2, kv_heads, seen, 8), torch.randn(2, kv_heads, seen, 8)
    layer = LayerConfig(None, window=window)
    expected = naive_attention(q, k, v, 0.3, window)
    # Only keys that the new tokens may see are passed, as from the cache.
    k, v = (x[:, :, layer.first_visible(seen - new) :] for x in (k, v))
    mask = visible_keys(layer, seen - new, new, q.device)
    for fused in (True, False):
        torch.testing.assert_close(SoftmaxAttention(0.3, fused=fused)(q, k, v, mask), expected)
        smaller = SoftmaxAttention(0.3, fused=fused)(q, k, v[..., :5], mask)
        torch.testing.assert_close(smaller, expected[..., :5])


def test_a_sliding_window_shows_exactly_its_number_of_keys() -> None:
    mask = visible_keys(LayerConfig(None, window=2), 3, 3, torch.device("cpu"))
    assert mask is not None
    assert mask.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_the_cache_keeps_its_contents_when_it_grows() -> None:
    cache = KVCache(CONFIG, capacity=2)
    torch.manual_seed(0)
    keys, values = torch.randn(3, 1, 2, 9, 4), torch.randn(3, 1, 2, 9, 4)
    for token in range(9):
        cache.reserve(token + 1)
        for layer in range(3):
            got = cache.append(layer, keys[layer, :, :, token : token + 1], values[layer, :, :, token : token + 1])
            assert torch.equal(got[0], keys[layer, :, :, : token + 1])
            assert torch.equal(got[1], values[layer, :, :, : token + 1])
        cache.advance(1)
    assert cache.length == 9
    assert cache.capacity == 16
    assert cache.nbytes == 2 * 3 * 2 * 16 * 4 * 4 == 16 * CONFIG.kv_bytes_per_token(4)


def test_the_cache_grows_at_most_to_the_context_length() -> None:
    cache = KVCache(CONFIG, capacity=600)
    cache.reserve(601)
    assert cache.capacity == CONFIG.context_length


def test_an_unfinished_pass_leaves_the_cache_unchanged() -> None:
    cache = KVCache(CONFIG)
    cache.append(0, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    assert cache.length == 0
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(1)


def test_rotated_scores_depend_only_on_the_distance() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    frequencies = inverse_frequencies(RopeConfig(1e4, 6))

    def score(query_position: int, key_position: int) -> float:
        def turned(x: torch.Tensor, position: int) -> torch.Tensor:
            angles = torch.tensor([float(position)])[:, None] * frequencies
            return rotate(x, angles.cos(), angles.sin())

        return float((turned(q, query_position) * turned(k, key_position)).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_partial_rotation_leaves_the_other_values_unchanged() -> None:
    x = torch.randn(1, 2, 3, 8)
    angles = torch.randn(3, 2)
    assert torch.equal(rotate(x, angles.cos(), angles.sin())[..., 4:], x[..., 4:])


def test_scaling_keeps_high_frequencies_and_divides_low_ones() -> None:
    plain = inverse_frequencies(RopeConfig(1e4, 64))
    assert torch.equal(inverse_frequencies(RopeConfig(1e4, 64, LinearScaling(4.0))), plain / 4)
    for scaling in (Llama3Scaling(8.0, 1.0, 4.0, 512), YarnScaling(8.0, 512, 32.0, 1.0, 1.0, True)):
        ratio = plain / inverse_frequencies(RopeConfig(1e4, 64, scaling))
        assert float(ratio[0]) == pytest.approx(1)
        assert float(ratio[-1]) == pytest.approx(8)
        assert (ratio.diff() >= -1e-5).all()


def test_stored_divisors_equal_the_rule_of_llama_3() -> None:
    rule = RopeConfig(5e5, 64, Llama3Scaling(8.0, 1.0, 4.0, 8192))
    divisors = inverse_frequencies(RopeConfig(5e5, 64)) / inverse_frequencies(rule)
    stored = RopeConfig(5e5, 64, FrequencyFactors(tuple(divisors.tolist())))
    torch.testing.assert_close(inverse_frequencies(stored), inverse_frequencies(rule))
