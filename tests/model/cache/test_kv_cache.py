"""The cache of windowed layers: the positions it keeps, how far it can be truncated, and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from llmcli.model import KVCache, LatentConfig, LayerConfig, ModelConfig
from llmcli.model.cache.segment import CacheSegment

FULL, WINDOW, CHUNK = LayerConfig(None), LayerConfig(None, window=7), LayerConfig(None, chunk=10)


def config(*layers: LayerConfig, latent: LatentConfig | None = None) -> ModelConfig:
    return ModelConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        context_length=100_000,
        norm_eps=1e-5,
        layers=layers,
        latent=latent,
    )


def row(position: int) -> torch.Tensor:
    """Keys of one position, filled with its number."""
    return torch.full((1, 2, 1, 4), float(position))


def read(cache: KVCache, tokens: int) -> list[list[int]]:
    """Append `tokens` tokens and return, for each layer, the visible positions."""
    start = cache.length
    cache.begin(tokens)
    keys = torch.cat([row(position) for position in range(start, start + tokens)], dim=2)
    seen = []
    for layer in range(len(cache.layers)):
        got, values = cache.append(layer, keys, -keys)
        assert torch.equal(got, -values)
        seen.append([int(x) for x in got[0, 1, :, 2]])
    cache.advance(tokens)
    return seen


def small_cache(config: ModelConfig, *, capacity: int = 256, dtype: torch.dtype = torch.float32) -> KVCache:
    """A cache that keeps few extra positions and moves its windows often."""
    return KVCache(config, capacity=capacity, dtype=dtype, rewind=5, room=4)


@pytest.mark.parametrize("steps", [[1] * 60, [30, 1, 1, 9, 25, 1, 1, 1], [3, 50, 2, 2, 2, 40, 1]])
def test_each_layer_returns_the_visible_positions(steps: list[int]) -> None:
    cache = small_cache(config(FULL, WINDOW, CHUNK), capacity=2)
    for tokens in steps:
        start, end = cache.length, cache.length + tokens
        full, window, chunk = read(cache, tokens)
        assert full == list(range(end))
        assert window == list(range(max(0, start - 6), end))
        assert chunk == list(range(start // 10 * 10, end))


def test_memory_is_limited_by_the_window() -> None:
    cache = small_cache(config(WINDOW))
    for _ in range(300):
        read(cache, 1)
    # 7 visible, 5 to go back, 4 to grow into; keys and values of 2 heads of 4 numbers of 4 bytes.
    assert cache.nbytes <= (7 + 5 + 4) * 2 * 2 * 4 * 4
    read(cache, 1000)
    read(cache, 1)
    assert cache.nbytes <= (7 + 5 + 4) * 2 * 2 * 4 * 4
    cache.reserve(50_000)
    assert cache.nbytes <= (7 + 5 + 4) * 2 * 2 * 4 * 4


def test_truncation_reaches_back_rewind_tokens_and_never_to_dropped_positions() -> None:
    for length in range(1, 80):
        cache = small_cache(config(FULL, WINDOW, CHUNK), capacity=1)
        for _ in range(length):
            read(cache, 1)
        for back in range(length + 1):
            assert cache.reusable(length - back) in (0, length - back)
        for back in range(min(length, 5)):
            assert cache.reusable(length - back) == length - back
        if length > 40:
            assert cache.reusable(length - 30) == 0
            with pytest.raises(ValueError, match="truncate"):
                cache.truncate(length - 30)
        cache.truncate(length - min(length, 4))
        _, window, chunk = read(cache, 3)
        start = cache.length - 3
        assert window == list(range(max(0, start - 6), start + 3))
        assert chunk == list(range(start // 10 * 10, start + 3))


def test_a_windowed_cache_can_be_truncated_to_nothing() -> None:
    cache = small_cache(config(WINDOW))
    read(cache, 90)
    read(cache, 1)
    cache.truncate(0)
    assert read(cache, 3) == [[0, 1, 2]]


def test_an_interrupted_pass_leaves_a_windowed_cache_unchanged() -> None:
    cache = small_cache(config(FULL, WINDOW), capacity=1)
    read(cache, 40)
    cache.begin(30)
    cache.append(1, torch.zeros(1, 2, 30, 4), torch.zeros(1, 2, 30, 4))
    assert cache.length == 40
    assert read(cache, 1) == [list(range(41)), list(range(34, 41))]


def test_latent_attention_caches_the_latent_and_one_key() -> None:
    latent = LatentConfig(query_rank=None, rank=16, nope_dim=8, rope_dim=4, value_dim=8)
    cache = small_cache(config(FULL, FULL, latent=latent), capacity=10, dtype=torch.bfloat16)
    assert cache.nbytes == 2 * 10 * (16 + 4) * 2 == 10 * config(FULL, FULL, latent=latent).kv_bytes_per_token(2)


def test_predicted_bytes_count_windows() -> None:
    model = config(FULL, WINDOW, CHUNK)
    per_layer = 2 * 2 * 4 * 2
    assert model.kv_bytes(1000, 2) == (1000 + 7 + 10) * per_layer
    assert model.kv_bytes(5, 2) == 15 * per_layer == 5 * model.kv_bytes_per_token(2)


def storages(segments: Iterable[CacheSegment]) -> set[int]:
    """The addresses of the memory that keys and values are parts of."""
    return {tensor.untyped_storage().data_ptr() for segment in segments for tensor in segment[:2]}


def test_a_long_cache_of_little_memory_takes_no_more_than_it_counts() -> None:
    cache = KVCache(config(FULL, FULL))
    cache.reserve(3000)
    tensors = [tensor for segment in cache.layers for tensor in segment[:2]]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == cache.nbytes


def test_a_large_cache_keeps_no_memory_from_before_it_grew() -> None:
    cache = KVCache(config(FULL, FULL))
    cache.reserve(80_000)
    before = list(cache.layers)
    assert len(storages(before)) == 1, "all layers are parts of one piece of huge pages"
    cache.reserve(81_000)
    assert len(storages(cache.layers)) == 1
    assert storages(cache.layers).isdisjoint(storages(before)), "the piece with the old segments stays"


def test_windows_that_move_leave_no_memory_beside_the_other_layers() -> None:
    cache = KVCache(config(FULL, replace(WINDOW, window=79_000)))
    cache.begin(80_000)
    full, window = cache.layers
    assert storages([full]).isdisjoint(storages([window]))
