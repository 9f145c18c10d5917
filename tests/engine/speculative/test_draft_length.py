from __future__ import annotations

import itertools

import pytest

from llmcli.engine.speculative.draft_length import AcceptanceRate, StepCosts


def measured(ratios: dict[int, float]) -> StepCosts:
    costs = StepCosts()
    for _ in range(40):
        for tokens, ratio in {1: 1.0, **ratios}.items():
            costs.saw(tokens, 0.01 * ratio)
    return costs


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("each", [0.0, 0.3])
def test_the_number_of_proposals_maximizes_the_expected_gain(chance: float, each: float) -> None:
    """Compared with the mean over all combinations of accepted and rejected tokens."""
    ratios = {2: 1.1, 3: 1.2, 4: 1.3, 5: 2.2, 6: 2.3}
    gains = {0: 1.0}
    for count in range(1, 6):
        tokens = sum(
            (chance ** sum(taken) * (1 - chance) ** (count - sum(taken)))
            * (1 + next((place for place, one in enumerate(taken) if not one), count))
            for taken in itertools.product((0, 1), repeat=count)
        )
        gains[count] = tokens / (ratios[count + 1] + count * each)
    count, gain = measured(ratios).best([chance] * 5, each=each)
    assert gain == pytest.approx(gains[count], rel=1e-3)
    # A gain within the error of measurement is not worth a larger pass.
    assert gain == pytest.approx(max(gains.values()), rel=0.03)
    assert count == 0 or gain > 1.03


def test_the_possible_loss_is_limited() -> None:
    costs = measured({2: 1.2, 3: 1.4, 4: 1.6})
    assert costs.best([0.95] * 3)[0] == 3
    assert costs.best([0.95] * 3, limit=0.45)[0] == 2
    assert costs.best([0.95] * 3, limit=0.1)[0] == 0


def test_costs_that_were_not_measured_are_interpolated() -> None:
    costs = measured({4: 1.5, 16: 6.0})
    ratios = [costs.ratio(tokens) for tokens in range(1, 17)]
    assert ratios == sorted(ratios)
    assert [ratios[0], ratios[3], ratios[15]] == pytest.approx([1.0, 1.5, 6.0], rel=0.01)


def test_an_outlier_in_a_measured_cost_soon_fades() -> None:
    costs = measured({})
    costs.saw(4, 1.0)
    assert costs.ratio(4) < 4
    for _ in range(20):
        costs.saw(4, 0.015)
    assert costs.ratio(4) < 1.6


def test_passes_of_one_token_are_made_first_and_from_time_to_time() -> None:
    costs = StepCosts()
    plain = []
    for _ in range(200):
        plain.append(not costs.plain_is_known)
        costs.saw(1 if plain[-1] else 4, 0.01)
    assert plain[:2] == [True, True]
    assert True in plain[20:100]
    assert sum(plain) < 20


def test_acceptance_rates_follow_observations_and_return_to_the_prior() -> None:
    chance = AcceptanceRate(0.7, 2)
    assert chance.value == pytest.approx(0.7)
    for _ in range(100):
        chance.saw(False)
    assert chance.value < 0.05
    low = chance.value
    for _ in range(2000):
        chance.forget()
    assert low < 0.5 < chance.value <= 0.7
    for _ in range(100):
        chance.saw(True)
    assert chance.value > 0.95
