"""Texts of a model with compressed blocks: read in pieces, broken off, gone back to, in batches."""

from __future__ import annotations

import pytest
import torch

from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import support as cpu
from llmcli.kernels.cuda import support as cuda
from llmcli.kernels.cuda.readable_graph_step import GraphStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model import KVCache, Transformer
from llmcli.model.cache.branch_cache import BranchCache
from tests.support.compressed import COMPRESSED, compressed_cache, compressed_engine, compressed_model
from tests.support.models.tiny import random_ids
from tests.support.passes import broken, chunks, read

GREEDY = SamplingParams(temperature=0, max_tokens=40)
PROMPT = random_ids(600)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return compressed_model()


@pytest.mark.parametrize("piece", [1, 7, 64, 65, 513])
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(model: Transformer, piece: int) -> None:
    ids = torch.tensor([PROMPT[: 600 if piece > 7 else 80]])
    cache = model.new_cache(capacity=4, rewind=5, room=30)
    parts = [model(ids[:, start : start + piece], cache) for start in range(0, ids.shape[1], piece)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("block", range(COMPRESSED.num_layers))
@pytest.mark.parametrize("read_before", [50, 48, 47])
def test_an_interrupted_pass_changes_nothing(model: Transformer, block: int, read_before: int) -> None:
    cache = compressed_cache(model)
    read(cache, PROMPT[:read_before])
    with broken(model, block), pytest.raises(KeyboardInterrupt):
        # Other tokens, which complete blocks.
        cache.read([*PROMPT[:read_before], *random_ids(90, seed=9)])
    assert cache.length == read_before
    assert torch.equal(cache.read(PROMPT[:70]), chunks(model, PROMPT[:70], read_before - 16, read_before))


def test_a_text_goes_back_a_few_tokens_without_a_mark(model: Transformer) -> None:
    ids = torch.tensor([PROMPT[:300]])
    cache = model.new_cache(capacity=4)
    for start in range(0, 200, 40):
        model(ids[:, start : start + 40], cache)
    for length in (171, 168, 140):
        assert cache.reusable(length) == length
        cache.truncate(length)
        torch.testing.assert_close(model(ids[:, length:], cache), model(ids)[:, length:], atol=5e-5, rtol=5e-5)
        cache.truncate(length)
    assert cache.reusable(60) == 0


def test_going_back_to_a_mark_has_the_bits_of_a_text_read_anew(model: Transformer) -> None:
    cache = compressed_cache(model)
    # Chunks of 512, and the last 16 tokens alone.
    first = read(cache, PROMPT)
    assert torch.equal(first, chunks(model, PROMPT, 512, 584))
    other = [*PROMPT[:590], *random_ids(200, seed=5)]
    cache.begin(other, 1000)
    cache.read(other)
    # An edited question: further back than what the windows keep, to the end of a chunk.
    edited = [*PROMPT[:520], *random_ids(60, seed=6)]
    assert cache.begin(edited, 1000) == 512
    assert torch.equal(cache.read(edited), chunks(model, edited, 512, 564))
    assert cache.begin(PROMPT, 1000) in (512, 520)
    torch.testing.assert_close(cache.read(PROMPT), first, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("length", [37, 40, 47, 48, 64, 97])
def test_a_mark_holds_what_windows_and_blocks_have_dropped(model: Transformer, length: int) -> None:
    ids = torch.tensor([PROMPT[:400]])
    cache = model.new_cache(rewind=5, room=4)
    expected = model.new_cache(rewind=5, room=4)
    for each in (cache, expected):
        model(ids[:, :length], each)
    cache.mark()
    for start in range(length, 380, 10):
        model(torch.tensor([random_ids(10, seed=start)]), cache)
    assert [cache.reusable(at) for at in (length + 20, length, length - 1)] == [length, length, 0]
    copied = cache.beginning(length)
    for each in (cache, copied):
        if each is cache:
            each.truncate(length)
        assert torch.equal(model(ids[:, length : length + 30], each), _read(model, expected, ids, length))
    cache.truncate(0)
    torch.testing.assert_close(model(ids, cache), model(ids), atol=5e-5, rtol=5e-5)


def _read(model: Transformer, cache: KVCache, ids: torch.Tensor, length: int) -> torch.Tensor:
    logits: torch.Tensor = model(ids[:, length : length + 30], cache)
    cache.truncate(length)
    return logits


@pytest.mark.parametrize("position", [46, 47, 49])
def test_a_token_can_be_computed_again(model: Transformer, position: int) -> None:
    ids = torch.tensor([PROMPT[:60]])
    cache = model.new_cache()
    model(ids[:, :50], cache)
    contents = [tensor.clone() for memory in cache.blocks.values() for pair in memory.written_at(47) for tensor in pair]
    with cache.rereading(position):
        again = model(torch.tensor([[7]]), cache)
    expected = model(torch.tensor([[*PROMPT[:position], 7]]))
    torch.testing.assert_close(again[:, -1], expected[:, -1], atol=5e-5, rtol=5e-5)
    now = [tensor for memory in cache.blocks.values() for pair in memory.written_at(47) for tensor in pair]
    assert all(map(torch.equal, contents, now))
    torch.testing.assert_close(model(ids[:, 50:], cache), model(ids)[:, 50:], atol=5e-5, rtol=5e-5)


def test_texts_of_a_batch_do_not_change_each_other(model: Transformer) -> None:
    step = ReadableStep(model)
    texts = [PROMPT[:30], PROMPT[100:217], PROMPT[300:315]]
    caches = [model.new_cache() for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        step.forward(text, cache)
    # The second one is idle.
    logits = step.forward_rows([5, 7], [caches[0], caches[2]])
    for row, text in enumerate(([*texts[0], 5], [*texts[2], 7])):
        assert torch.equal(logits[row], chunks(model, text, len(text) - 1))
    assert torch.equal(step.forward([9], caches[1])[0], chunks(model, [*texts[1], 9], 117))


def test_rows_of_one_pass_see_their_own_blocks(model: Transformer) -> None:
    texts = [PROMPT[:90], PROMPT[200:290]]
    together = model(torch.tensor(texts))
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], model(torch.tensor([text]))[0], atol=5e-5, rtol=5e-5)


def test_texts_branch_off_a_common_beginning(model: Transformer) -> None:
    trunk = model.new_cache(capacity=64)
    ids = torch.tensor([PROMPT[:60]])
    model(ids, trunk)
    ends = [random_ids(20, seed=seed) for seed in (3, 4)]
    branch = BranchCache(trunk, COMPRESSED.layers, 46)
    places = model._places(46, 20, 0, None, torch.tensor(ends))
    x = model._run_blocks(model._embed(torch.tensor(ends), slice(46, 66))[0], places, branch)
    for row, end in enumerate(ends):
        whole = model(torch.tensor([[*PROMPT[:46], *end]]))[0, 46:]
        torch.testing.assert_close(model.unembed(x)[row], whole, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("drafted", [False, True])
def test_greedy_replies_with_proposals_equal_those_without(model: Transformer, drafted: bool) -> None:
    draft = DraftModel(compressed_cache(compressed_model(seed=1))) if drafted else None
    ahead = compressed_engine(model, speculation=SpeculationState(lookup=True, draft=draft, tokens=4))
    word = random_ids(5, seed=3)
    ids = [*word, *random_ids(90), *word, *word[:3]]
    *events, finish = ahead.stream(ids, GREEDY, probabilities=False)
    plain = compressed_engine(model).stream(ids, GREEDY, probabilities=False)
    expected = [event.id for event in plain if isinstance(event, Step)]
    assert [event.id for event in events if isinstance(event, Step)] == expected
    assert isinstance(finish, Finish)
    assert finish.stats.proposed_tokens > 0


def test_memory_is_that_of_windows_and_blocks(model: Transformer) -> None:
    cache = model.new_cache(capacity=1, rewind=0, room=1)
    model(torch.tensor([PROMPT[:128]]), cache)
    # Window rows of 4 layers; rows and keys of the index of 32 blocks in two layers, rows of 8 blocks in one; values
    # and gates of two sets of 8 tokens, and of one set of 16.
    kept = 4 * 9 * 16 + 2 * 32 * 28 + 8 * 16 + 2 * (8 * 2 * 2 * 28) + 16 * 2 * 16
    assert COMPRESSED.kv_bytes(128, 4) == 4 * kept
    assert COMPRESSED.mark_bytes(4) == 4 * (4 * 8 * 16 + 2 * (8 * 2 * 2 * 28) + 16 * 2 * 16)
    cache.mark()
    # At a block's end, a mark needs the block before of two layers.
    marked = 4 * (4 * 8 * 16 + 2 * (4 * 2 * 2 * 28))
    assert cache._states.nbytes == marked


def test_kernels_refuse_it(model: Transformer) -> None:
    assert cpu.unsupported(COMPRESSED) is not None
    assert cuda.unsupported(COMPRESSED) is not None
    with pytest.raises(NoKernelError, match="compressed blocks"):
        GraphStep(model, "")
