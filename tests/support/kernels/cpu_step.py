"""Compares logits and tokens of the C kernel with those of the readable model."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.engine.sampling.sampler import Sampler
from llmcli.kernels.cpu.build import Library, Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer
from llmcli.model.cache.kv_cache import REWIND, ROOM
from tests.support.models.random_models import RoundingFunctional
from tests.support.models.tiny import random_ids

IDS = random_ids(70)


def library(variant: Variant = "native") -> Library:
    return load_library(variant)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def fresh(model: Transformer, *, rewind: int = REWIND, room: int = ROOM) -> KVCache:
    cache = model.new_cache(capacity=4, rewind=rewind, room=room)
    cache.expected_length = len(IDS)
    return cache


@torch.inference_mode()
def expected(model: Transformer, ids: Sequence[int] = IDS) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([list(ids)]), fresh(model))[0]
    return logits


def expected_of_packed(model: Transformer, ids: Sequence[int] = IDS) -> torch.Tensor:
    """Logits of the readable model with inputs of packed matrices rounded as in the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmcli.model.quantized.matrix.F", RoundingFunctional())
        patch.setattr("llmcli.model.mixture_of_experts.F", RoundingFunctional())
        return expected(model, ids)


def assert_close(model: Transformer, bits: int | None, ours: torch.Tensor, ids: Sequence[int] = IDS) -> None:
    """Compare `ours` with the last logits of a text."""
    if bits is None:
        assert error(ours, expected(model, ids)[-len(ours) :]) < 5e-6
        return
    theirs = expected_of_packed(model, ids)[-len(ours) :]
    # An activation halfway between two codes may round either way; the difference is 1 in 32512.
    assert error(ours, theirs) < 5e-4


def in_pieces(step: CpuStep, cache: KVCache, sizes: Sequence[int]) -> torch.Tensor:
    parts = []
    for size in sizes:
        start = cache.length
        parts.append(step.forward(IDS[start : start + size], cache, only_last=False))
    return torch.cat(parts)


class Given(Sampler):
    """A sampler that draws with given numbers."""

    def __init__(self, params: SamplingParams, uniforms: list[float]) -> None:
        super().__init__(params)
        self._numbers = iter(uniforms)

    def uniform(self) -> float:
        return next(self._numbers)


def assert_as_one_by_one(step: CpuStep, model: Transformer, params: SamplingParams, length: int, count: int) -> None:
    """Compare two multi-step calls with single passes; between them both caches are truncated."""
    together, apart = model.new_cache(capacity=4), model.new_cache(capacity=4)
    for cache in (together, apart):
        step.forward(random_ids(length), cache)
    for turn in range(2):
        random = Random(turn)
        uniforms = [0.0, *(random.random() for _ in range(count - 2)), 1 - 2**-53]
        vocabulary = model.config.vocab_size - 37
        ids, sampler = [turn], Given(params, uniforms)
        for _ in uniforms:
            ids.append(sampler.choose(step.forward(ids[-1:], apart)[0, :vocabulary]))
        assert step.forward_multi_step(turn, together, SamplingRequest(params, uniforms, vocabulary)) == ids[1:]
        assert together.length == apart.length
        for cache in (together, apart):
            cache.truncate(cache.length - count // 2)
    assert torch.equal(step.forward([1], together), step.forward([1], apart))
