"""Several tokens of each text of a batch in one call of the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.engine.batch.row_steps import RowSteps, RowText
from llmcli.engine.sampling.sampler import Sampler
from llmcli.kernels.cpu.build import load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import Transformer
from tests.support.models.random_models import random_model
from tests.support.models.tiny import random_ids


class Counting(CpuStep):
    """Counts the calls of the kernel."""

    calls = 0

    def forward_rows_multi_step(self, *arguments: Any) -> list[list[int] | torch.Tensor]:
        self.calls += 1
        return super().forward_rows_multi_step(*arguments)

    def forward_rows(self, *arguments: Any) -> torch.Tensor:
        raise AssertionError("a call for each token")


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model("llama", vocab_size=300, max_position_embeddings=300)


def texts(model: Transformer, step: CpuStep, params: Sequence[SamplingParams], **more: Any) -> list[RowText]:
    made = []
    for row, each in enumerate(params):
        ids = random_ids(5 + 3 * row, seed=row)
        cache = model.new_cache()
        step.forward(ids[:-1], cache)
        made.append(RowText([*ids], cache, Sampler(each), len(ids) + 40, **more))
    return made


def test_a_call_of_the_kernel_has_several_tokens_of_every_text(model: Transformer) -> None:
    step = Counting(model, threads=1, library=load_library())
    rows = texts(model, step, [SamplingParams(seed=row) for row in range(20)])
    steps = RowSteps(model, step, 300, multi_step_s=1000)
    while any(len(row.ids) < row.longest for row in rows):
        for row, tokens in zip(rows, steps.next(rows), strict=True):
            assert isinstance(row.ids, list) and isinstance(tokens, list)
            row.ids.extend(tokens)
    # The first call measures how long a token takes; then there are eight tokens a call.
    assert step.calls == 6
    alone = texts(model, step, [SamplingParams(seed=row) for row in range(20)])
    for one, row in zip(alone, rows, strict=True):
        while len(one.ids) < one.longest:
            assert isinstance(one.ids, list)
            one.ids.append(one.sampler.choose(step.forward(one.ids[-1:], one.cache)[0, :300], one.ids))
        assert one.ids == row.ids


def test_a_text_that_needs_logits_gets_them_and_the_others_a_token(model: Transformer) -> None:
    step = Counting(model, threads=1, library=load_library())
    params = [SamplingParams(), SamplingParams(repeat_penalty=1.2), SamplingParams(temperature=0)]
    rows, steps = texts(model, step, params), RowSteps(model, step, 290, multi_step_s=1000)
    for _ in range(2):
        one, logits, other = steps.next(rows)
        assert isinstance(logits, torch.Tensor) and logits.shape == (290,)
        assert isinstance(one, list) and isinstance(other, list) and len(one) == len(other) == 1
    assert step.calls == 2


def test_numbers_of_a_text_that_ends_early_are_given_back(model: Transformer) -> None:
    step = Counting(model, threads=1, library=load_library())
    params, steps = [SamplingParams(seed=1)] * 2, RowSteps(model, step, 300, multi_step_s=1000)
    steps.next(texts(model, step, params))
    whole = steps.next(texts(model, step, params))[0]
    assert isinstance(whole, list)
    rows = texts(model, step, params, stop_ids=[whole[2]])
    found = steps.next(rows)[0]
    assert found == whole[: whole.index(whole[2]) + 1] and len(whole) == 8
    expected = Sampler(params[0])
    expected.uniforms(len(found))
    assert rows[0].sampler.uniform() == expected.uniform()


def test_no_text_gets_more_tokens_than_it_can_have(model: Transformer) -> None:
    step = Counting(model, threads=1, library=load_library())
    steps = RowSteps(model, step, 300, multi_step_s=1000)
    rows = texts(model, step, [SamplingParams(seed=1)] * 3)
    steps.next(rows)
    short = [
        RowText(row.ids, row.cache, row.sampler, len(row.ids) + room)
        for row, room in zip(rows, (1, 3, 40), strict=True)
    ]
    assert [len(tokens) for tokens in steps.next(short, 5)] == [1, 3, 5]
