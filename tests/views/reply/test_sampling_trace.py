"""The table of `/why`: a column for each filter that is on, in order."""

from __future__ import annotations

from llmcli.engine import SamplingParams
from llmcli.engine.sampling.trace import TracedCandidate
from llmcli.views.reply.sampling_trace import choice_table
from tests.support.sampling_filters import FILTERS


def headings(params: SamplingParams) -> list[str]:
    return [str(column.header) for column in choice_table([], 0, params, lambda _: b"").columns][3:]


def test_active_filters_have_columns_in_the_order_they_are_applied() -> None:
    on = {name: value for settings in FILTERS.values() for name, value in settings.items()}
    params = SamplingParams(**on, min_p=0.1)  # type: ignore[arg-type]
    expected = ["bias", "repeat 1.4, frequency 0.7, presence 0.7", "dry 2", "top-n-sigma 1", "temp 0.8±0.7", "top-k 40"]
    assert headings(params) == [*expected, "typical-p 0.4", "top-p 0.95", "min-p 0.1", "xtc 0.02"]
    assert headings(SamplingParams()) == ["temp 0.8", "top-k 40", "top-p 0.95"]


def test_filters_after_temperature_zero_have_no_column() -> None:
    assert headings(SamplingParams(temperature=0, presence_penalty=1.0, min_p=0.1)) == ["presence 1", "temp 0"]


def test_a_token_is_marked_out_at_the_filter_that_removed_it() -> None:
    after = (("logit_bias", 0.0), ("temperature", 0.0), ("top_k", 0.0), ("top_p", 0.0), ("min_p", 0.0))
    choice = TracedCandidate(5, "x", -1.0, 0.0, "logit_bias", rank=1, after=after)  # type: ignore[arg-type]
    table = choice_table([choice], 5, SamplingParams(logit_bias=((5, -1e9),), top_p=1.0), lambda _: b"x")
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[3:] == ["out", "", ""]
