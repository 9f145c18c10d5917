"""Keys and values in 8 bits: what rounding costs, and the cache that holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmcli.model import KVCache, LatentConfig, LayerConfig, ModelConfig
from llmcli.model.cache.branch_cache import BranchCache
from llmcli.model.cache.int8_rows import pack_rows, unpack_rows
from llmcli.model.mixer_config import ShortConvConfig

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=48,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=40,
    context_length=1000,
    norm_eps=1e-5,
    layers=(LayerConfig(None), LayerConfig(None, window=7), LayerConfig(None, kv_from=0)),
    int8_cache=True,
)


@pytest.mark.parametrize("size", [1, 4, 31, 32, 40, 64, 256])
def test_numbers_change_by_half_a_step(size: int) -> None:
    values = torch.randn(3, 5, size) * torch.tensor([1e-3, 1.0, 300.0]).view(3, 1, 1)
    rows = pack_rows(values)
    assert rows.dtype == torch.int8
    assert rows.shape == (3, 5, size + 2 * -(-size // 32))
    for first in range(0, size, 32):
        group = values[..., first : first + 32]
        # Half of a step, and half of the last bit of the scale in float16, which may be subnormal.
        allowed = group.abs().amax(-1, keepdim=True) / 127 * (0.5 + 127 * 2**-11) + 127 * 2**-25
        assert ((unpack_rows(rows, size, torch.float32)[..., first : first + 32] - group).abs() <= allowed).all()


def test_special_numbers() -> None:
    values = torch.zeros(4, 64)
    values[1, 3], values[2, 40], values[3] = torch.nan, -torch.inf, torch.linspace(-1, 1, 64)
    read = unpack_rows(pack_rows(values), 64, torch.float32)
    assert torch.equal(read[0], torch.zeros(64))
    assert read[1, :32].isnan().all() and torch.equal(read[1, 32:], torch.zeros(32))
    assert read[2, 32:].isnan().all() and torch.equal(read[2, :32], torch.zeros(32))
    # Packing what was unpacked changes nothing.
    assert torch.equal(pack_rows(read[[0, 3]]), pack_rows(values[[0, 3]]))
    assert pack_rows(torch.empty(2, 3, 0)).shape == (2, 3, 0)


def filled(config: ModelConfig, steps: list[int]) -> tuple[KVCache, torch.Tensor]:
    """A cache of small windows after `steps`, and the keys of all positions, (1, K, S, D)."""
    cache, keys = KVCache(config, capacity=2, rewind=5, room=4), torch.randn(1, 2, sum(steps), 40)
    for tokens in steps:
        append(cache, keys[:, :, cache.length : cache.length + tokens])
    return cache, keys


def append(cache: KVCache, keys: torch.Tensor) -> None:
    cache.begin(keys.shape[2])
    for layer in (0, 1):
        got, values = cache.append(layer, keys, 2 * keys)
        assert torch.allclose(got[:, :, -keys.shape[2] :], keys, atol=0.02)
        assert torch.allclose(values[:, :, -keys.shape[2] :], 2 * keys, atol=0.04)
    cache.advance(keys.shape[2])


def assert_holds(cache: KVCache, keys: torch.Tensor) -> None:
    """Whether full and windowed layers hold exactly what the packed keys unpack to."""
    exact = unpack_rows(pack_rows(keys), 40, torch.float32)
    length = cache.length
    for layer, start in ((0, 0), (1, max(0, length - 6))):
        assert torch.equal(cache.read(layer, start, length)[0], exact[:, :, start:length])


@pytest.mark.parametrize("steps", [[1] * 30, [20, 1, 9], [3, 2, 25]])
def test_a_cache_in_8_bits_grows_moves_and_shrinks(steps: list[int]) -> None:
    cache, keys = filled(CONFIG, steps)
    assert_holds(cache, keys)
    with cache.rereading(28):
        cache.begin(1)
        cache.append(0, torch.zeros(1, 2, 1, 40), torch.zeros(1, 2, 1, 40))
    assert_holds(cache, keys)
    cache.truncate(27)
    append(cache, keys[:, :, 27:29])
    assert_holds(cache, keys)


def test_bytes_of_a_cache_in_8_bits() -> None:
    # A key of 40 bytes has two scales of two bytes.
    assert CONFIG.kv_bytes_per_token(2) == 2 * 2 * 2 * 44
    assert replace(CONFIG, int8_cache=False).kv_bytes_per_token(2) == 2 * 2 * 2 * 80
    assert KVCache(CONFIG, capacity=16).nbytes == CONFIG.kv_bytes(16, 4) + 2 * 2 * 44 * 9
    # The inputs of a convolution stay as they are.
    convolution = replace(CONFIG, layers=(LayerConfig(None, window=3, mixer=ShortConvConfig(3)),))
    assert convolution.kv_bytes(1, 2) == 48 * 2
    assert KVCache(convolution).layers[0].keys.dtype == torch.float32


def test_latents_and_branches_in_8_bits() -> None:
    latent = LatentConfig(query_rank=None, rank=24, nope_dim=4, rope_dim=8, value_dim=4)
    cache = KVCache(replace(CONFIG, layers=(LayerConfig(None),), latent=latent))
    rows = torch.randn(1, 1, 5, 32)
    cache.begin(5)
    got, nothing = cache.append(0, rows, rows[..., :0])
    assert torch.allclose(got, rows, atol=0.02)
    assert nothing.shape == (1, 1, 5, 0)

    trunk, keys = filled(CONFIG, [6])
    more = torch.randn(3, 2, 1, 40)
    seen, _ = BranchCache(trunk, CONFIG.layers, 5).append(0, more, more)
    exact = unpack_rows(pack_rows(keys), 40, torch.float32)
    assert torch.equal(seen, torch.cat((exact[:, :, :5].expand(3, -1, -1, -1), more), dim=2))
