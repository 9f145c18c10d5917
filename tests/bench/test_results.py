from __future__ import annotations

import pytest

from llmcli.bench.results import MACHINE, MEASURES, OURS, Measure, Measurement, Summary, in_turn, summarize


def measured(arm: str, measure: Measure, *values: float, size: int | None = None) -> list[Measurement]:
    return [Measurement(arm, round_, measure, size, value) for round_, value in enumerate(values, 1)]


def only(summaries: tuple[Summary, ...], arm: str) -> Summary:
    (found,) = (one for one in summaries if one.arm == arm)
    return found


def test_medians_and_extremes_do_not_depend_on_the_order() -> None:
    values = (3.0, 1.0, 10.0, 2.0)
    for turned in (values, values[::-1]):
        one = only(summarize(measured(OURS, "exit_warm_s", *turned), {}), OURS)
        assert (one.count, one.median, one.min, one.max) == (4, 2.5, 1.0, 10.0)
        assert (one.bandwidth_share, one.ours_times_better) == (None, None)


@pytest.mark.parametrize("measure", [measure for measure in MEASURES if measure != "bandwidth_bytes_per_s"])
def test_rates_are_better_when_greater_and_other_measures_when_smaller(measure: Measure) -> None:
    measurements = measured(OURS, measure, 6.0, 6.0, 99.0) + measured("peer", measure, 2.0)
    ratio = only(summarize(measurements, {}), "peer").ours_times_better
    assert ratio == pytest.approx(3.0 if measure.endswith("_per_s") else 1 / 3)


def test_a_ratio_compares_the_same_measure_and_size() -> None:
    measurements = measured(OURS, "prefill_tokens_per_s", 8.0, size=128) + measured(
        "peer", "prefill_tokens_per_s", 2.0, size=512
    )
    assert only(summarize(measurements, {}), "peer").ours_times_better is None
    assert only(summarize(measured("peer", "exit_warm_s", 1.0), {}), "peer").ours_times_better is None


def test_the_bandwidth_share_is_bytes_per_token_times_speed_over_bandwidth() -> None:
    measurements = (
        measured(MACHINE, "bandwidth_bytes_per_s", 900.0, 1000.0, 1100.0)
        + measured(OURS, "decode_tokens_per_s", 5.0, 4.0, 6.0, size=0)
        + measured("peer", "decode_tokens_per_s", 1.0, size=0)
    )
    summaries = summarize(measurements, {0: 150})
    assert only(summaries, OURS).bandwidth_share == pytest.approx(0.75)
    assert only(summaries, "peer").bandwidth_share == pytest.approx(0.15)
    assert only(summaries, MACHINE).bandwidth_share is None
    # Peers that do not quantize read more bytes per token.
    others = summarize(measurements, {0: 150}, of_peers={0: 300})
    assert only(others, OURS).bandwidth_share == pytest.approx(0.75)
    assert only(others, "peer").bandwidth_share == pytest.approx(0.3)
    assert only(summarize(measurements, {}), OURS).bandwidth_share is None
    assert only(summarize(measurements[3:], {0: 150}), OURS).bandwidth_share is None


def test_every_second_round_is_reversed() -> None:
    order = [arm for round_ in range(1, 5) for arm in in_turn(("A", "B", "C"), round_)]
    assert "".join(order) == "ABCCBAABCCBA"
    # Over two rounds all arms have the same average position.
    assert len({sum(at for at, arm in enumerate(order) if arm == name) for name in "ABC"}) == 1
