"""Sampling on the device gives the tokens of `Sampler`; here its operations run without a graph."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llmcli.engine import Sampler, SamplingParams
from llmcli.kernels.cuda.sampler import DeviceChoice, Kind, choose, settings_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCABULARY = 1500
CONTEXT = list(range(0, 600, 7))
DRAWS = 20_000
SETTINGS = [
    SamplingParams(temperature=1.0, top_k=0, top_p=1.0),
    SamplingParams(),
    SamplingParams(temperature=1.4, top_k=0, top_p=0.9),
    SamplingParams(temperature=0.7, top_k=200, top_p=0.8, repeat_penalty=1.3),
    SamplingParams(temperature=2.0, top_k=0, top_p=1.0, min_p=0.1, repeat_penalty=0.7),
    SamplingParams(temperature=1.0, top_k=7, top_p=0.6, min_p=0.05),
    SamplingParams(temperature=0.01, top_k=5000, top_p=0.99),
    SamplingParams(temperature=1.0, top_k=1),
]


def logits_of(seed: int) -> torch.Tensor:
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2
    # A few large logits, some of them of tokens in the text.
    logits[::97] += 6
    return logits


def chosen(logits: torch.Tensor, params: SamplingParams, uniforms: list[float]) -> torch.Tensor:
    """The id sampled with each random number, after the text `CONTEXT`."""
    seen = torch.zeros(len(logits), dtype=torch.bool)
    seen[CONTEXT] = True
    numbers = torch.tensor(uniforms, dtype=torch.float64)
    settings, kind = settings_of(params), Kind.of(params, len(logits))
    return choose(logits.to(DEVICE), seen.to(DEVICE), numbers.to(DEVICE), settings.to(DEVICE), kind).cpu()


@pytest.mark.parametrize("params", SETTINGS)
def test_samples_follow_the_distribution(params: SamplingParams) -> None:
    logits, random = logits_of(3), Random(1)
    ids = chosen(logits, params, [random.random() for _ in range(DRAWS)])
    expected = Sampler(params).distribution(logits, CONTEXT).double() * DRAWS
    counts = torch.bincount(ids, minlength=VOCABULARY).double()
    assert counts[expected == 0].sum() == 0
    # Rare tokens are counted together, as the chi-squared test needs five expected in each class.
    often = expected >= 5
    observed = torch.cat((counts[often], counts[~often].sum()[None]))
    wanted = torch.cat((expected[often], expected[~often].sum()[None]))
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    # Wilson and Hilferty 1931: the cube root is nearly normal; 3.09 is p = 0.001.
    spread = 2 / (9 * max(freedom, 1))
    assert statistic <= max(freedom, 1) * (1 - spread + 3.09 * spread**0.5) ** 3


@pytest.mark.parametrize("params", SETTINGS)
def test_the_same_random_numbers_sample_the_same_tokens(params: SamplingParams) -> None:
    for seed in range(20):
        logits, sampler, random = logits_of(seed), Sampler(replace(params, seed=seed)), Random(seed)
        theirs = [sampler.choose(logits, CONTEXT) for _ in range(20)]
        assert chosen(logits, params, [random.random() for _ in range(20)]).tolist() == theirs


def test_extreme_random_numbers_sample_allowed_tokens() -> None:
    params = SamplingParams(temperature=1.0, top_k=0, top_p=0.5)
    possible = Sampler(params).distribution(logits_of(0), CONTEXT).nonzero().flatten().tolist()
    least, most = chosen(logits_of(0), params, [0.0, 1 - 2**-53]).tolist()
    assert (least, most) == (possible[0], possible[-1])


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_takes_the_first_of_equal_logits(penalty: float) -> None:
    params = SamplingParams(temperature=0, repeat_penalty=penalty)
    for seed in range(30):
        # Rounded, so that many logits are equal.
        logits = logits_of(seed).round().clamp(max=4)
        assert chosen(logits, params, [0.0]).tolist() == [Sampler(params).choose(logits, CONTEXT)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SETTINGS[0], SETTINGS[1]])
def test_logits_that_are_not_finite_are_reported(bad: float, params: SamplingParams) -> None:
    logits = logits_of(0)
    logits[77] = bad
    assert chosen(logits, params, [0.5, 0.9]).tolist() == [-1, -1]
    choice = DeviceChoice(VOCABULARY, DEVICE)
    choice.begin(params, CONTEXT)
    choice.choose(logits.to(DEVICE), 0.5)
    # The next pass may already read the token, so it must still be a valid id.
    assert (choice.chosen(), choice.token.item()) == (-1, 0)


@pytest.mark.parametrize("params", [SamplingParams(temperature=0, repeat_penalty=1.2), *SETTINGS])
def test_sampling_reads_no_value_on_the_host(params: SamplingParams) -> None:
    # Fake tensors have shapes but no values: an operation that reads a value fails.
    with FakeTensorMode(), torch.inference_mode():
        logits, seen = torch.empty(VOCABULARY), torch.empty(VOCABULARY, dtype=torch.bool)
        uniforms, settings = torch.empty(3, dtype=torch.float64), torch.empty(5, dtype=torch.float64)
        assert choose(logits, seen, uniforms, settings, Kind.of(params, VOCABULARY)).shape == (3,)


def test_the_repeat_penalty_includes_sampled_tokens() -> None:
    params, logits = SamplingParams(temperature=0, repeat_penalty=4.0), logits_of(5).to(DEVICE)
    choice, sampler = DeviceChoice(VOCABULARY, DEVICE), Sampler(params)
    for text in ([1, 2, 3], [4, 5]):
        choice.begin(params, text)
        for _ in range(6):
            choice.choose(logits, 0.0)
        # All tokens are sampled before the first is read; a new text has no penalties.
        for _ in range(6):
            text.append(choice.chosen())
            assert text[-1] == sampler.choose(logits, text[:-1])
