"""Rejection sampling: replies have the model's own distribution, whatever was proposed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.engine import SamplingParams, Step
from llmcli.engine.sampling.sampler import Sampler
from llmcli.engine.speculative.rejection_sampling import Proposal, accept_or_resample
from tests.support.models.puppet import ASSISTANT, END, write_puppet

# Thousands of draws for each distribution.
pytestmark = pytest.mark.slow

_SIZE, _LENGTH, _SAMPLES = 6, 3, 20_000
_SEED = torch.Generator().manual_seed(4)
_TARGET = torch.randn(_SIZE + 1, _SIZE, generator=_SEED) * 1.5
_DRAFTS = {
    "good": _TARGET + torch.randn(_SIZE + 1, _SIZE, generator=_SEED) * 0.3,
    "bad": torch.randn(_SIZE + 1, _SIZE, generator=_SEED) * 2,
    "adversarial": -2 * _TARGET,
}
_START = _SIZE
_FILTERS = {
    "none": SamplingParams(temperature=1, top_k=0, top_p=1.0, seed=1),
    "new": SamplingParams(
        temperature=0.9,
        top_k=0,
        top_p=1.0,
        presence_penalty=0.7,
        typical_p=0.95,
        xtc_probability=0.5,
        xtc_threshold=0.15,
        dynatemp_range=0.4,
        logit_bias=((2, 1.0),),
        seed=3,
    ),
    "all": SamplingParams(temperature=0.9, top_k=4, top_p=0.92, min_p=0.08, repeat_penalty=1.4, seed=2),
}


def filtered(table: Tensor, sampler: Sampler) -> Callable[[tuple[int, ...]], Tensor]:
    """The filtered distribution after a text, of a bigram model; cached for each text."""

    @cache
    def distribution(text: tuple[int, ...]) -> Tensor:
        return sampler.distribution(table[text[-1]], [token for token in text if token != _START])

    return distribution


def continuation(
    target: Callable[[tuple[int, ...]], Tensor],
    draft: Callable[[tuple[int, ...]], Tensor],
    sampler: Sampler,
    ahead: int,
) -> tuple[int, ...]:
    """Three tokens, of which `ahead` are proposed at a time, as in the decode loop."""
    text: tuple[int, ...] = (_START,)
    while len(text) <= _LENGTH:
        proposals: list[Proposal] = []
        drafted = text
        for _ in range(ahead):
            distribution = draft(drafted)
            proposals.append(Proposal(sampler.draw(distribution), "draft", distribution))
            drafted += (proposals[-1].token,)
        for proposal in [*proposals, None]:
            text += (accept_or_resample(target(text), proposal, sampler),)
            if proposal is None or text[-1] != proposal.token:
                break
    return text[1 : 1 + _LENGTH]


@pytest.mark.parametrize(
    ("draft", "filters"),
    [
        ("adversarial", "all"),
        ("bad", "new"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("bad", "none"), ("good", "all"), ("bad", "all"))),
    ],
)
def test_the_distribution_is_the_models_own(draft: str, filters: str) -> None:
    sampler = Sampler(_FILTERS[filters])
    target, drafting = filtered(_TARGET, sampler), filtered(_DRAFTS[draft], sampler)
    exact: dict[tuple[int, ...], float] = {}
    for said in itertools.product(range(_SIZE), repeat=_LENGTH):
        text = (_START, *said)
        probability = math.prod(float(target(text[:place])[text[place]]) for place in range(1, len(text)))
        if probability > 0:
            exact[said] = probability
    assert sum(exact.values()) == pytest.approx(1, abs=1e-4)
    counts = Counter(continuation(target, drafting, sampler, 2) for _ in range(_SAMPLES))
    assert set(counts) <= set(exact), "a continuation that cannot be"
    assert chi_square_p(counts, exact) > 0.001


def chi_square_p(counts: Counter[tuple[int, ...]], exact: dict[tuple[int, ...], float]) -> float:
    """The p-value of a chi-square test of the counts; rare outcomes are merged."""
    total = sum(counts.values())
    cells: list[tuple[float, int]] = []
    rare, rare_count = 0.0, 0
    for outcome, probability in exact.items():
        if probability * total < 5:
            rare, rare_count = rare + probability, rare_count + counts[outcome]
        else:
            cells.append((probability * total, counts[outcome]))
    if rare * total >= 5:
        cells.append((rare * total, rare_count))
    statistic = sum((count - expected) ** 2 / expected for expected, count in cells)
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def test_the_chi_square_test_rejects_a_wrong_rule() -> None:
    """A rule that accepts every proposal fails the chi-square test."""
    sampler = Sampler(_FILTERS["none"])
    target, drafting = filtered(_TARGET, sampler), filtered(_DRAFTS["good"], sampler)
    exact: dict[tuple[int, ...], float] = {(token,): float(target((_START,))[token]) for token in range(_SIZE)}
    counts: Counter[tuple[int, ...]] = Counter((sampler.draw(drafting((_START,))),) for _ in range(2000))
    assert chi_square_p(counts, exact) < 0.001
    assert chi_square_p(Counter((sampler.draw(target((_START,))),) for _ in range(2000)), exact) > 0.001


def test_the_engine_keeps_the_distribution(tmp_path: Path) -> None:
    """Two tokens by the decode loop itself, with a draft model that is mostly rejected."""
    a, b, c = 65, 66, 67
    rows = {ASSISTANT: {a: 0.6, b: 0.3, c: 0.1}, a: {a: 0.2, b: 0.8}, b: {a: 0.5, c: 0.5}, c: {c: 0.9, a: 0.1}}
    drafts = {ASSISTANT: {a: 0.2, b: 0.8}, a: {a: 0.9, b: 0.1}, b: {a: 0.1, c: 0.9}, c: {c: 0.3, a: 0.7}}
    target = llmcli.load(write_puppet(tmp_path / "a", rows), dtype="float32")
    draft = llmcli.load(write_puppet(tmp_path / "b", drafts), dtype="float32")
    engine = target.engine(draft=draft, draft_tokens=2)
    counts: Counter[tuple[int, ...]] = Counter()
    origins = Counter[str]()
    for seed in range(500):
        params = replace(_FILTERS["none"], seed=seed, max_tokens=3)
        steps = [
            event for event in engine.stream([END, ASSISTANT], params, probabilities=False) if isinstance(event, Step)
        ]
        counts[tuple(step.id for step in steps)] += 1
        origins.update(step.origin for step in steps)
    exact = {
        said: rows[ASSISTANT][said[0]] * rows[said[0]][said[1]] * rows[said[1]][said[2]]
        for said in itertools.product((a, b, c), repeat=3)
        if said[1] in rows[said[0]] and said[2] in rows[said[1]]
    }
    assert set(counts) <= set(exact)
    assert chi_square_p(counts, exact) > 0.001
    assert min(origins["draft"], origins["model"]) > 0
