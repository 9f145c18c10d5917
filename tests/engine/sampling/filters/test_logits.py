"""Filters of logits agree with their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from llmcli.engine import Sampler, SamplingParams
from llmcli.engine.sampling.filters.logits import biased, dynamic_temperature, penalized, within_sigma
from llmcli.errors import LlmcliError

LOGITS = torch.tensor([2.0, -1.0, 0.5, 3.0])


def test_a_bias_agrees_with_transformers() -> None:
    from transformers.generation.logits_process import SequenceBiasLogitsProcessor

    theirs = SequenceBiasLogitsProcessor({(1,): 4.0, (3,): -2.5})(torch.tensor([[0, 2]]), LOGITS[None].clone())
    assert torch.equal(biased(LOGITS, [(1, 4.0), (3, -2.5)]), theirs[0])


def test_a_bias_of_minus_infinity_rules_a_token_out() -> None:
    params = SamplingParams(temperature=0, logit_bias=((3, -math.inf), (900, 1.0)))
    assert Sampler(params).choose(LOGITS, greatest=(3, 3.0)) == 0
    with pytest.raises(LlmcliError, match="rules out every token"):
        biased(torch.tensor([1.0, -torch.inf]), [(0, -math.inf)])


def test_penalties_follow_the_formula_of_llama_cpp() -> None:
    # logit / repeat where it is positive, else times repeat; then minus count * frequency + presence.
    context = [0, 1, 0, 0]
    found = penalized(LOGITS, context, repeat=2.0, frequency=0.25, presence=0.5)
    torch.testing.assert_close(found, torch.tensor([2 / 2 - 3 * 0.25 - 0.5, -1 * 2 - 0.25 - 0.5, 0.5, 3.0]))


@pytest.mark.parametrize(("last_n", "expected"), [(-1, [1.0, -2.0, 0.5, 3.0]), (1, [1.0, -1.0, 0.5, 3.0])])
def test_penalties_look_at_the_last_tokens(last_n: int, expected: list[float]) -> None:
    params = SamplingParams(temperature=1, top_k=0, top_p=1.0, presence_penalty=1.0, repeat_last_n=last_n)
    found = Sampler(params).distribution(LOGITS, [1, 0])
    torch.testing.assert_close(found, torch.tensor(expected).softmax(-1))


def test_penalties_over_zero_tokens_do_nothing() -> None:
    params = SamplingParams(temperature=1, top_k=0, top_p=1.0, presence_penalty=1.0, repeat_last_n=0)
    torch.testing.assert_close(Sampler(params).distribution(LOGITS, [0, 1]), LOGITS.softmax(-1))


def test_top_n_sigma_keeps_logits_near_the_greatest() -> None:
    # Of 0, 0, 0, 4: mean 1, deviation sqrt((1 + 1 + 1 + 9) / 4) = sqrt(3).
    logits = torch.tensor([0.0, 0.0, 0.0, 4.0, -torch.inf])
    deviation = math.sqrt(3)
    assert within_sigma(logits, 4 / deviation - 0.01).tolist() == [-math.inf] * 3 + [4.0, -math.inf]
    assert torch.equal(within_sigma(logits, 4 / deviation + 0.01), logits)
    assert torch.equal(within_sigma(logits[3:], 0.1), logits[3:])


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_top_n_sigma_keeps_the_same_tokens_at_any_temperature(temperature: float) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(3))
    params = SamplingParams(temperature=temperature, top_k=0, top_p=1.0, top_n_sigma=1.5)
    least = logits.max() - 1.5 * logits.double().std(correction=0)
    assert torch.equal(Sampler(params).distribution(logits) > 0, logits >= least)


def test_the_temperature_follows_the_entropy() -> None:
    even = torch.zeros(8)
    assert dynamic_temperature(even, 1.0, 0.5, 1.0, 0) == pytest.approx(1.5)
    sure = torch.tensor([0.0, -400.0, -400.0])
    assert dynamic_temperature(sure, 1.0, 0.5, 1.0, 0) == pytest.approx(0.5)
    # Of 1/2, 1/4, 1/4: entropy 1.5 ln 2 of ln 3; from max(0, 1 - 2) = 0 to 3.
    share = 1.5 * math.log(2) / math.log(3)
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    assert dynamic_temperature(logits, 1.0, 2.0, 2.0, 0) == pytest.approx(3 * share**2)
    # Tokens that are ruled out, or not among the top k, do not count.
    more = torch.cat([logits, torch.tensor([-torch.inf, -2.0])])
    assert dynamic_temperature(more, 1.0, 2.0, 2.0, 3) == pytest.approx(3 * share**2)
    assert dynamic_temperature(torch.tensor([1.0, -torch.inf]), 0.9, 0.5, 1.0, 0) == 0.9


@pytest.mark.parametrize("top_k", [0, 4])
def test_logits_are_divided_by_that_temperature(top_k: int) -> None:
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=1.0, dynatemp_range=0.5)
    temperature = dynamic_temperature(LOGITS, 1.0, 0.5, 1.0, top_k)
    assert 0.5 < temperature < 1.5 and temperature != 1
    torch.testing.assert_close(Sampler(params).distribution(LOGITS), (LOGITS / temperature).softmax(-1))
