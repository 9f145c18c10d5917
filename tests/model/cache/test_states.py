"""The states of recurrent layers in the cache: when they change, and marks to go back to."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmcli.model import KVCache, LayerConfig, ModelConfig
from llmcli.model.cache.marks import memory_of_states, most_marks
from llmcli.model.cache.state import State
from llmcli.model.mixer_config import DeltaConfig, ShortConvConfig

FULL, WINDOW = LayerConfig(None), LayerConfig(None, window=7)
DELTA = LayerConfig(None, mixer=DeltaConfig(1, 1, 2, 3, 4))
CONV = LayerConfig(None, window=3, mixer=ShortConvConfig(3))


def config(*layers: LayerConfig) -> ModelConfig:
    return ModelConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_heads=4, num_kv_heads=2, head_dim=4,
        context_length=100_000, norm_eps=1e-5, layers=layers,
    )  # fmt: skip


def read(cache: KVCache, tokens: int, *, complete: bool = True) -> float:
    """A pass whose states hold the length of the text after it; returns what the state held before."""
    cache.begin(tokens)
    end = cache.length + tokens
    for layer in (0, 2):
        cache.append(layer, *[torch.full((1, 2, tokens, 4), float(end))] * 2)
    before = cache.state(1)
    cache.store(1, State(torch.full((1, 3, 7), float(end)), torch.full((1, 1, 2, 3), float(end))))
    if complete:
        cache.advance(tokens)
    return 0.0 if before is None else float(before.tail[0, 0, 0])


@pytest.fixture
def cache() -> KVCache:
    return KVCache(config(FULL, DELTA, WINDOW), rewind=5, room=4)


def test_states_change_with_the_length_only(cache: KVCache) -> None:
    assert read(cache, 5) == 0
    assert read(cache, 2, complete=False) == 5
    # An interrupted pass, and the one after it.
    assert cache.length == 5
    assert read(cache, 3) == 5
    assert read(cache, 1) == 8


def test_a_text_goes_back_to_marks_only(cache: KVCache) -> None:
    for tokens in (20, 3, 4):
        read(cache, tokens)
        cache.mark()
    read(cache, 2)
    assert cache.length == 29
    assert [cache.reusable(length) for length in (30, 29, 28, 27, 26, 23, 22, 5)] == [29, 29, 27, 27, 23, 23, 0, 0]
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(26)
    cache.truncate(23)
    assert read(cache, 1) == 23
    # The mark stays, the one after it is gone.
    assert [cache.reusable(length) for length in (24, 23)] == [24, 23]
    cache.truncate(0)
    assert cache.reusable(24) == 0
    assert read(cache, 1) == 0


def test_a_window_that_has_moved_on_makes_a_mark_useless(cache: KVCache) -> None:
    read(cache, 20)
    cache.mark()
    for _ in range(30):
        read(cache, 1)
    assert cache.reusable(49) == 0


def test_a_brief_mark_replaces_the_one_before_only() -> None:
    cache = KVCache(config(FULL, DELTA, FULL))
    read(cache, 10)
    cache.mark()
    for _ in range(3):
        read(cache, 2)
        cache.mark(brief=True)
    read(cache, 2)
    assert [cache.reusable(length) for length in (17, 16, 15, 10)] == [16, 16, 10, 10]
    cache.truncate(10)
    assert cache.reusable(9) == 0


def test_marks_are_few_and_further_apart_the_older_they_are() -> None:
    cache = KVCache(config(FULL, DELTA, FULL))
    for _ in range(400):
        read(cache, 5)
        cache.mark()
    lengths = []
    length = cache.length
    while length > 0:
        lengths.append(length)
        length = cache.reusable(length - 1)
    assert len(lengths) == 8
    assert lengths[:2] == [2000, 1995]
    # Going back by n tokens never costs reading more than some times n tokens.
    distances = [2000 - length for length in (*lengths[1:], 0)]
    assert all(later <= 4 * earlier for earlier, later in itertools.pairwise(distances))


def test_the_memory_of_states_has_a_limit() -> None:
    assert [most_marks(each << 20) for each in (0, 1, 64, 65, 200, 300)] == [0, 8, 8, 7, 2, 2]
    model = config(FULL, DELTA, FULL)
    state = (3 * 7 + 6) * 4
    assert model.state_bytes(4) == state
    assert memory_of_states(model, 4) == 11 * state
    # Marks of short convolutions hold two inputs.
    assert memory_of_states(config(FULL, CONV), 4) == 9 * 2 * 16 * 4
    cache = KVCache(model)
    before = cache.nbytes
    for _ in range(40):
        read(cache, 3)
        cache.mark()
    # The last mark has the states of the text itself.
    assert cache.nbytes == before + 8 * state


def test_reading_a_token_again_restores_states_and_marks(cache: KVCache) -> None:
    read(cache, 10)
    cache.mark()
    read(cache, 1)
    cache.mark()
    with cache.rereading(10):
        assert read(cache, 1) == 10
    assert (cache.length, cache.reusable(11), cache.reusable(10)) == (11, 11, 10)
    assert read(cache, 1) == 11


def test_layers_without_keys_take_no_memory_by_position() -> None:
    assert config(DELTA, LayerConfig(None, parts="feed_forward")).kv_bytes(1000, 4) == 0
    # A short convolution caches its last inputs.
    assert config(CONV).kv_bytes(1000, 4) == 3 * 16 * 4
