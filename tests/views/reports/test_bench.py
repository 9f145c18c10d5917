from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmcli.bench.results import (
    BenchResult,
    Measurement,
    summarize,
)
from llmcli.views.reports.bench import SCHEMA, BenchView
from llmcli.views.terminal.to_json import json_line
from tests.support.inspections.bench import RESULT, VALUES
from tests.support.terminal.drawing import drawn


def row(text: str, label: str) -> list[str]:
    (found,) = (line for line in text.splitlines() if line.strip().startswith(label))
    return found.split(label)[1].split()


def test_medians_spreads_and_ratios() -> None:
    wide = drawn(BenchView(RESULT), 120)
    assert row(wide, "first token   ") == [
        "1.85", "1.80-1.90", "0.21", "0.20-0.22", "0.11", "x", "9.00", "4.9", "x",
    ]  # fmt: skip
    assert row(wide, "128 tokens") == ["950", "900-1000", "305", "300-310", "3.1", "x", "905", "900-910", "1.0", "x"]
    # 100 MB a token, 351 times a second, of 45 GB/s.
    share = wide[wide.index("of the bandwidth") :]
    assert row(share, "after 0 tokens") == ["78%", "24%", "6%"]
    assert row(share, "after 1024 tokens") == ["68%"]
    assert row(wide, "whole run") == ["400", "MiB"]
    assert row(wide, "bandwidth:")[:2] == ["45.0", "GB/s;"]


def test_bench_columns_that_do_not_fit_are_left_out() -> None:
    for width, spread, ratio in ((120, True, True), (80, False, True), (60, False, False), (40, False, False)):
        text = drawn(BenchView(RESULT), width)
        assert ("900-1000" in text, "3.1 x" in text) == (spread, ratio)
        assert "…" not in text
        assert all(number in text for number in ("1005", "305", "25.2", "1.07 GiB"))


def test_failures_are_shown_without_any_results() -> None:
    machine = tuple(one for one in RESULT.summaries if one.arm == "machine")
    text = drawn(BenchView(replace(RESULT, summaries=machine)), 80)
    assert "transformers: the␛reason" in text
    assert "import torch alone: 1.45 s, 219 MiB" in text
    assert "first token" not in text
    assert "GB/s" not in drawn(BenchView(replace(RESULT, summaries=())), 80)


@pytest.mark.parametrize("value", [0.9951, 0.05, 12.34, 99.95, 104.6, 12345.6])
def test_rates_have_at_least_three_digits(value: float) -> None:
    result = replace(RESULT, summaries=summarize([Measurement("llmcli", 1, "prefill_tokens_per_s", 128, value)], {}))
    (shown,) = row(drawn(BenchView(result), 80), "128 tokens")
    assert float(shown) == pytest.approx(value, abs=0.5 if value >= 100 else 0.05)


def test_json_is_the_whole_result() -> None:
    found = json.loads(json_line(SCHEMA, RESULT))
    assert list(found) == ["schema", *BenchResult.__dataclass_fields__]
    assert found["schema"] == "llmcli.bench/1"
    assert found["model"]["bytes_per_token"] == {"0": 100_000_000, "1024": 120_000_000}
    assert len(found["measurements"]) == sum(map(len, VALUES.values()))
    (share,) = (
        one["bandwidth_share"]
        for one in found["summaries"]
        if (one["arm"], one["measure"], one["size"]) == ("llmcli", "decode_tokens_per_s", 0)
    )
    assert share == pytest.approx(100e6 * 351 / 45e9)
