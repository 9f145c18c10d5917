from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine import Sampler, SamplingParams
from llmcli.engine.events import Filter
from llmcli.errors import LlmcliError, UsageError
from tests.support.sampling_filters import FILTERS


def reference(logits: torch.Tensor, params: SamplingParams, context: list[int]) -> torch.Tensor:
    """The same filters, applied by `transformers`."""
    from transformers.generation import logits_process as processors

    scores, ids = logits[None].clone(), torch.tensor([context])
    steps = []
    if params.repeat_penalty != 1:
        steps.append(processors.RepetitionPenaltyLogitsProcessor(params.repeat_penalty))
    steps.append(processors.TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        steps.append(processors.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(processors.TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        steps.append(processors.MinPLogitsWarper(params.min_p))
    for step in steps:
        scores = step(ids, scores)
    return scores.softmax(-1)[0]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 40, 5000]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
)
def test_filters_agree_with_the_reference(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2500, generator=generator) * 3
    context = torch.randint(0, 2500, (30,), generator=generator).tolist()
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=penalty, seed=0
    )
    ours = Sampler(params).distribution(logits, context)
    # The absolute tolerance is for ties at the edge of top-p, where rounding may remove a rare token.
    torch.testing.assert_close(ours, reference(logits, params, context), rtol=1e-4, atol=1e-5)
    assert float(ours.sum()) == pytest.approx(1, abs=1e-5)


def test_each_candidate_names_the_filter_that_removed_it() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.06, 0.04])
    params = SamplingParams(temperature=1.0, top_k=4, top_p=0.92, min_p=0.4)
    stages = Sampler(params).stages(probabilities.log())
    left = {name: [bool(value) for value in stage] for name, stage in stages.items()}
    assert left == {
        "temperature": [True] * 5,
        "top_k": [True] * 4 + [False],
        "top_p": [True] * 3 + [False] * 2,
        "min_p": [True] * 2 + [False] * 3,
    }
    assert stages["min_p"].tolist() == Sampler(params).distribution(probabilities.log()).tolist()
    greedy = Sampler(SamplingParams(temperature=0)).stages(probabilities.log())
    assert greedy["temperature"].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("top_k", [0, 30])
def test_stages_are_the_filters_that_are_on(top_k: int) -> None:
    on = {name: value for settings in FILTERS.values() for name, value in settings.items()}
    on |= {"top_n_sigma": 2.5, "top_k": top_k, "typical_p": 0.9, "top_p": 0.8, "min_p": 0.8, "xtc_probability": 1.0}
    params = SamplingParams(**on)  # type: ignore[arg-type]
    logits, context = torch.randn(300, generator=torch.Generator().manual_seed(1)), [1, 2, 3, 1, 2]
    sampler = Sampler(params)
    stages = sampler.stages(logits, context)
    assert tuple(stages) == get_args(Filter)[1:]
    assert torch.equal(stages["xtc"], sampler.distribution(logits, context))
    assert all(float(stage.sum()) == pytest.approx(1, abs=1e-5) for stage in stages.values())
    before: torch.Tensor | None = None
    for name, stage in stages.items():
        # Each filter has removed something, except top-k where it is off.
        assert before is None or not torch.equal(stage, before) or (name == "top_k" and not top_k)
        before = stage
    assert stages["logit_bias"][5] == 0 < stages["penalties"][1] < stages["logit_bias"][1]


def test_without_a_seed_stages_use_the_xtc_seed_of_the_sampler() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    sampler = Sampler(SamplingParams(xtc_probability=0.5, xtc_threshold=0.1))
    for length in range(20):
        context = [0] * length
        assert torch.equal(sampler.stages(logits, context)["xtc"], sampler.distribution(logits, context))


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = torch.tensor([0.1, 3.0, 2.9, -1.0])
    distribution = Sampler(SamplingParams(temperature=0)).distribution(logits)
    assert distribution.tolist() == [0, 1, 0, 0]
    penalized = Sampler(SamplingParams(temperature=0, repeat_penalty=2.0)).distribution(logits, [1])
    assert penalized.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("size", [1, 5, 255, 256, 257, 1000, 49152])
def test_choose_equals_a_draw_from_the_distribution(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for place in (0, size // 2, size - 1):
        logits = torch.randn(size, generator=generator)
        logits[place] = 9.0
        greedy = Sampler(SamplingParams(temperature=0))
        assert greedy.choose(logits) == place == greedy.draw(greedy.distribution(logits))
    for params in (
        SamplingParams(seed=3),
        SamplingParams(temperature=0, repeat_penalty=1.5),
        SamplingParams(seed=3, top_k=40, top_p=0.9, temperature=0.7),
        SamplingParams(seed=3, top_p=0.5, min_p=0.01, repeat_penalty=1.2),
        SamplingParams(seed=3, top_p=0.999, temperature=2.0),
        SamplingParams(seed=3, typical_p=0.7, xtc_probability=0.5, xtc_threshold=0.01),
        SamplingParams(seed=3, top_k=0, top_p=0.9, typical_p=0.7, xtc_probability=0.5, xtc_threshold=0.01),
        SamplingParams(seed=3, top_k=0, top_p=1.0, dynatemp_range=0.5, top_n_sigma=2.0, presence_penalty=1.0),
    ):
        chosen, drawn = Sampler(params), Sampler(params)
        logits = torch.randn(size, generator=generator)
        context = [int(logits.argmax())]
        for _ in range(20):
            assert chosen.choose(logits, context) == drawn.draw(drawn.distribution(logits, context))


def test_of_equal_logits_the_first_is_chosen() -> None:
    assert Sampler(SamplingParams(temperature=0)).choose(torch.zeros(1000)) == 0


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    sampler = Sampler(SamplingParams(seed=7))
    draws = 20_000
    counts = torch.bincount(torch.tensor([sampler.draw(probabilities) for _ in range(draws)]), minlength=5).double()
    assert counts[1] == 0
    possible = probabilities > 0
    expected = probabilities[possible].double() * draws
    chi_square = float(((counts[possible] - expected) ** 2 / expected).sum())
    assert chi_square < 16.27  # three degrees of freedom, p = 0.001


def test_a_seed_gives_the_same_draws_and_another_seed_others() -> None:
    probabilities = torch.full((1000,), 0.001)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed))
        return [sampler.draw(probabilities) for _ in range(20)]

    assert draws(1) == draws(1)
    assert len({tuple(draws(seed)) for seed in (1, 2, None, None)}) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float) -> None:
    sampler, logits = Sampler(SamplingParams(temperature=temperature)), torch.tensor([0.0, bad, 1.0])
    with pytest.raises(LlmcliError, match="not a number"):
        sampler.distribution(logits)
    with pytest.raises(LlmcliError, match="not a number"):
        sampler.choose(logits)


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repeat_penalty": 0.0},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_invalid_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="-".join(next(iter(setting)).split("_"))):
        SamplingParams(**setting)  # type: ignore[arg-type]
