"""Typical-p agrees with `transformers`, XTC with its rule; over candidates as over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine import Sampler, SamplingParams
from llmcli.engine.sampling.filters import probabilities as filters
from llmcli.engine.sampling.filters.probabilities import Candidates


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    typical_p=st.sampled_from([0.05, 0.2, 0.5, 0.9, 0.99]),
    top_k=st.sampled_from([0, 1, 30, 400]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
)
def test_typical_p_agrees_with_transformers(seed: int, typical_p: float, top_k: int, temperature: float) -> None:
    from transformers.generation import logits_process as processors

    logits = torch.randn(300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    scores = processors.TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k:
        scores = processors.TopKLogitsWarper(top_k)(None, scores)
    # `transformers` computes NaN for tokens without probability: 0 times -inf.
    possible = scores > -torch.inf
    theirs = processors.TypicalLogitsWarper(typical_p)(None, scores[possible][None])
    expected = torch.zeros(300).masked_scatter(possible[0], theirs.softmax(-1).float())
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=1.0, typical_p=typical_p)
    torch.testing.assert_close(Sampler(params).distribution(logits), expected, rtol=1e-3, atol=1e-5)


def test_the_most_probable_token_need_not_be_typical() -> None:
    # Entropy 1.41 nats. Surprises 0.80, 1.90 and 2.30 differ from it by 0.61, 0.49 and 0.90.
    probabilities = torch.tensor([0.45, 0.15, 0.1, 0.15, 0.15])
    kept = filters.typical(probabilities, 0.4)
    torch.testing.assert_close(kept, torch.tensor([0, 1 / 3, 0, 1 / 3, 1 / 3]))
    few = Candidates([0, 1, 3, 4, 2], [0.45, 0.15, 0.15, 0.15, 0.1]).typical(0.4)
    assert few.ids == [1, 3, 4]
    assert few.probabilities == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("threshold", "left"),
    [
        (0.1, [0.0, 0.0, 0.15, 0.08, 0.02]),  # the least of three that reach it stays
        (0.25, [0.0, 0.25, 0.15, 0.08, 0.02]),
        (0.3, [0.5, 0.25, 0.15, 0.08, 0.02]),  # only one reaches it
        (0.6, [0.5, 0.25, 0.15, 0.08, 0.02]),
        (0.0, [0.0, 0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_xtc_removes_all_but_the_least_of_the_top_choices(threshold: float, left: list[float]) -> None:
    probabilities = [0.5, 0.25, 0.15, 0.08, 0.02]
    expected = torch.tensor(left) / sum(left)
    torch.testing.assert_close(filters.without_top(torch.tensor(probabilities), threshold), expected)
    few = Candidates(list(range(5)), probabilities).without_top(threshold).in_order()
    assert dict(zip(few.ids, few.probabilities, strict=True)) == pytest.approx(
        {token: float(value) for token, value in enumerate(expected) if value}
    )


@pytest.mark.parametrize("top_k", [0, 5])
def test_xtc_acts_on_its_share_of_positions_and_is_reproducible(top_k: int) -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02]).log()
    params = SamplingParams(temperature=1, top_k=top_k, top_p=1.0, xtc_probability=0.3, xtc_threshold=0.1, seed=11)
    sampler, again = Sampler(params), Sampler(params)
    acted = [float(sampler.distribution(logits, [0] * length)[0]) == 0 for length in range(2000)]
    assert 500 < sum(acted) < 700
    assert acted == [float(again.distribution(logits, [0] * length)[0]) == 0 for length in range(2000)]
    # XTC has used no number of the generator of the draws.
    assert sampler.uniform() == Sampler(params).uniform()


def test_xtc_probability_zero_is_never_and_one_is_always() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    params = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    for probability, expected in ((0.0, [0.5, 0.3, 0.2]), (1.0, [0, 0, 1.0])):
        sampler = Sampler(SamplingParams(**params, xtc_probability=probability))  # type: ignore[arg-type]
        for length in range(50):
            torch.testing.assert_close(sampler.distribution(logits, [0] * length), torch.tensor(expected))
