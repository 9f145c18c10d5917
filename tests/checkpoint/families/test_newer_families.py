"""Families beyond those that span all options: each once against `transformers`, with and without the C kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cpu.support import unsupported
from tests.support.kernels.cpu_step import library
from tests.support.models.newer_cases import EAGER_IS_WRONG, NEWER, NO_KERNEL
from tests.support.models.tiny import random_ids, save, tiny_model

IDS = random_ids(50)
# A first chunk, single tokens, and a chunk longer than any window.
PIECES = ((0, 9), (9, 10), (10, 11), (11, 40), (40, 41), (41, 50))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("case", NEWER)
def test_logits_and_greedy_tokens_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    model_type, overrides = NEWER[case]
    model = tiny_model(model_type, **overrides)
    if case in EAGER_IS_WRONG:
        model.config._attn_implementation = "sdpa"
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    engine = Engine(loaded.model, loaded.tokenizer)
    events = engine.stream(IDS[:35], SamplingParams(temperature=0, max_tokens=40))
    replied = [event.id for event in events if isinstance(event, Step)]
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
        after_reply = model(torch.tensor([IDS[:35] + replied])).logits[0, :, : loaded.tokenizer.vocab_size]
    assert relative_error(loaded.logits(IDS), reference) < 2e-5
    cache = loaded.model.new_cache(capacity=4, rewind=5, room=3)
    cache.expected_length = len(IDS)
    with torch.inference_mode():
        parts = [loaded.model(torch.tensor([IDS[start:stop]]), cache)[0] for start, stop in PIECES]
    assert relative_error(torch.cat(parts), reference) < 2e-5
    assert after_reply.argmax(-1)[34:-1].tolist() == replied

    reason = unsupported(loaded.config)
    assert (reason is not None) == (case in NO_KERNEL)
    if reason is None:
        step = CpuStep(loaded.model, threads=2, library=library())
        cache = loaded.model.new_cache(capacity=4)
        cache.expected_length = len(IDS)
        parts = [step.forward(IDS[start:stop], cache, only_last=False) for start, stop in PIECES]
        assert relative_error(torch.cat(parts), reference) < 2e-5
