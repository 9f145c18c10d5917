"""Texts of RWKV-4, whose layers have two states each, and of xLSTM: pieces, marks, interruptions and batches."""

from __future__ import annotations

import pytest
import torch

import llmcli
from llmcli.engine import Engine
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model import Transformer
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.passes import broken, chunks, read, reply

PROMPT = random_ids(600)
LAYERS = 3


@pytest.fixture(scope="module", params=["rwkv 4", "xlstm"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    model_type, overrides = RECURRENT[request.param]
    folder = tiny_checkpoint(tmp_path_factory.mktemp("model"), model_type, **overrides)
    return llmcli.load(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def model(loaded: llmcli.LoadedModel) -> Transformer:
    assert loaded.config.num_layers == LAYERS
    return loaded.model


def prefix_cache(loaded: llmcli.LoadedModel) -> PrefixCache:
    return PrefixCache(loaded.model, context_length=1024, vocab_size=loaded.config.vocab_size)


@pytest.mark.parametrize("piece", [1, 7, 64, 65, 513])
@torch.inference_mode()
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(model: Transformer, piece: int) -> None:
    ids = torch.tensor([PROMPT[: 600 if piece > 7 else 40]])
    cache = model.new_cache()
    parts = [model(ids[:, start : start + piece], cache) for start in range(0, ids.shape[1], piece)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("block", range(LAYERS))
def test_an_interrupted_pass_changes_neither_length_nor_states(loaded: llmcli.LoadedModel, block: int) -> None:
    cache = prefix_cache(loaded)
    read(cache, PROMPT[:50])
    with broken(loaded.model, block), pytest.raises(KeyboardInterrupt):
        cache.read(PROMPT[:70])
    assert cache.length == 50
    assert torch.equal(cache.read(PROMPT[:70]), chunks(loaded.model, PROMPT[:70], 34, 50))


def test_going_back_to_a_mark_has_the_bits_of_a_text_read_anew(loaded: llmcli.LoadedModel) -> None:
    cache = prefix_cache(loaded)
    first = read(cache, PROMPT)
    assert torch.equal(first, chunks(loaded.model, PROMPT, 512, 584))
    edited = [*PROMPT[:590], *random_ids(30, seed=5)]
    assert cache.begin(edited, 1000) == 584
    assert torch.equal(cache.read(edited), chunks(loaded.model, edited, 512, 584, 604))
    assert cache.begin(PROMPT, 1000) == 584
    assert torch.equal(cache.read(PROMPT), first)


def test_a_second_turn_continues_from_the_states_of_the_first(loaded: llmcli.LoadedModel) -> None:
    engine = Engine(loaded.model, loaded.tokenizer)
    said, _ = reply(engine, PROMPT[:30])
    further = [*PROMPT[:30], *said, *random_ids(10, seed=2)]
    again, cached = reply(engine, further)
    assert cached == 30 + len(said) - 1
    assert again == reply(Engine(loaded.model, loaded.tokenizer), further)[0]


def test_texts_of_a_batch_do_not_change_each_other(loaded: llmcli.LoadedModel) -> None:
    model, step = loaded.model, ReadableStep(loaded.model)
    texts = [PROMPT[:30], PROMPT[100:217], PROMPT[300:310]]
    caches = [model.new_cache() for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        step.forward(text, cache)
    # The second one is idle.
    logits = step.forward_rows([5, 7], [caches[0], caches[2]])
    for row, text in enumerate(([*texts[0], 5], [*texts[2], 7])):
        assert torch.equal(logits[row], chunks(model, text, len(text) - 1))
    assert torch.equal(step.forward([9], caches[1])[0], chunks(model, [*texts[1], 9], 117))
    backend = BatchBackend(model, step)
    for text in texts[:2]:
        assert torch.equal(backend.read(0, text, 200), read(prefix_cache(loaded), text))


def test_the_memory_of_states_is_what_the_configuration_says(loaded: llmcli.LoadedModel) -> None:
    cache = loaded.model.new_cache()
    empty = cache.nbytes
    ReadableStep(loaded.model).forward(PROMPT[:5], cache)
    assert cache.nbytes - empty == loaded.config.state_bytes(4) > 0
