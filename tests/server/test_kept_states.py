"""Caches of models with states: prompts are read in the engine's pieces, and later prompts go back to marks."""

from __future__ import annotations

import torch

from llmcli.engine.prefill import LAST_CHUNK, prefill
from llmcli.kernels.readable_step import ReadableStep
from llmcli.server.scheduler.kept_caches import KeptCaches
from llmcli.server.scheduler.reply_row import pieces
from tests.support.hybrid import hybrid_model
from tests.support.models.tiny import random_ids

CHUNK = 512


def test_prompts_that_begin_alike_are_read_from_a_chunk_on_with_the_bits_of_a_new_text() -> None:
    model = hybrid_model()
    step, kept = ReadableStep(model), KeptCaches(model, CHUNK, 1 << 30)
    first = random_ids(1100)
    for ids, expected in ((first, 0), ([*first[:700], *random_ids(300, seed=2)], CHUNK)):
        text, held = kept.take(ids, 2000)
        assert held == expected
        for piece in pieces(len(ids), held, CHUNK, LAST_CHUNK):
            logits = step.forward(ids[piece.start : piece.stop], text.cache)
            text.cache.mark()
        text.ids = ids
        assert torch.equal(logits[-1], prefill(step, model.new_cache(), ids))
        kept.give_back(text)


def test_the_last_tokens_are_a_piece() -> None:
    for length, held, ends in ((1030, 512, [1014, 1030]), (1040, 0, [512, 1024, 1040]), (10, 0, [10])):
        assert [piece.stop for piece in pieces(length, held, CHUNK, LAST_CHUNK)] == ends
    assert [piece.stop for piece in pieces(1030, 512, CHUNK)] == [1024, 1030]


def test_a_question_after_the_same_system_prompt_leaves_the_cache_of_a_long_conversation() -> None:
    model = hybrid_model()
    step, kept = ReadableStep(model), KeptCaches(model, CHUNK, 1 << 30)
    long, short = random_ids(1100), [*random_ids(1100)[:700], 5, 6]
    for ids, expected in ((long, 0), (short, CHUNK), ([*long, 7], 2 * CHUNK)):
        text, held = kept.take(ids, 2000)
        assert held == expected
        for piece in pieces(len(ids), held, CHUNK, LAST_CHUNK):
            logits = step.forward(ids[piece.start : piece.stop], text.cache)
            text.cache.mark()
        text.ids = list(ids)
        assert torch.equal(logits[-1], prefill(step, model.new_cache(), ids))
        kept.give_back(text)
