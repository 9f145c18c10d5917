"""`llm bench --speculative` on tiny models, and the summary of its measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import llmcli
from llmcli.bench.speculative import TASKS, MeasuredReply, Outcome, measure, outcomes, reply_count
from llmcli.engine import SamplingParams
from llmcli.views.reply.speculative import speculative_view
from tests.support.manual import absent, undocumented
from tests.support.models.puppet import loop, write_puppet
from tests.support.terminal.cli import llm
from tests.support.terminal.drawing import drawn

ONE = MeasuredReply("copy", 0, "plain", 1, 20, 2.0, 20.0, 0, 0, True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "puppet", loop(b"abcdefg"), context=2048)


def test_a_complete_run(model: Path) -> None:
    result = llm("bench", model, "--speculative", "--rounds", 1, "--draft", model, "--threads", 1, "--json")
    assert result.returncode == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert (found["schema"], found["model"], found["draft"]) == ("llmcli.bench-speculative/1", "puppet", "puppet")
    assert undocumented("llmcli.bench-speculative/1", found) == absent("llmcli.bench-speculative/1", found) == set()
    assert len(found["replies"]) == reply_count(1, draft=True)
    assert [(one["task"], one["arm"]) for one in found["outcomes"]] == [
        (task.name, arm) for task in TASKS for arm in ("plain", "lookup", "draft")
    ]
    assert all(one["same"] for one in found["outcomes"])
    helped = {one["arm"]: one for one in found["outcomes"][:3]}
    assert helped["plain"]["tokens_per_pass"] == 1
    # The gain depends on the cost of passes on this machine, but the first drafts are made before it is measured.
    assert helped["lookup"]["tokens_per_pass"] > 1


def test_arms_alternate_and_give_the_same_replies(model: Path) -> None:
    task = replace(TASKS[0], params=SamplingParams(temperature=0, max_tokens=9))
    replies = list(measure(llmcli.load(model), 2, draft=None, threads=1, tasks=(task,)))
    assert len(replies) == reply_count(2, draft=False, tasks=(task,)) == 8
    assert [one.arm for one in replies] == ["plain", "lookup", "lookup", "plain"] * 2
    assert all(one.same and one.tokens == 8 and one.seconds > 0 for one in replies)


def test_ratios_compare_the_same_replies() -> None:
    replies = []
    for round_, slower in ((1, 1.0), (2, 3.0), (3, 1.0)):
        for prompt, seconds in ((0, 2.0), (1, 4.0)):
            plain = replace(ONE, prompt=prompt, round=round_, seconds=seconds * slower)
            lookup = replace(plain, arm="lookup", seconds=seconds * slower / 2, passes=8.0, proposed=16, accepted=12)
            replies += [plain, replace(lookup, same=prompt == 0)]
    without, helped = outcomes(replies)
    assert (without.tokens_per_s, helped.tokens_per_s) == pytest.approx((40 / 6, 40 / 3))
    assert replace(without, tokens_per_s=0) == Outcome("copy", "plain", 0, 1.0, 1.0, 1.0, 1.0, None, True)
    assert [helped.ratio, helped.least, helped.most] == pytest.approx([2.0, 2.0, 2.0])
    assert (helped.tokens_per_pass, helped.acceptance_rate, helped.same) == (2.5, 0.75, False)


def test_the_view_shows_speed_ratio_and_acceptance() -> None:
    view = speculative_view(
        "tiny",
        "cpu kernel",
        (
            Outcome("free chat", "plain", 250.4, 1.0, 1.0, 1.0, 1.0, None, True),
            Outcome("free chat", "lookup", 245.0, 0.98, 0.9, 1.011, 1.03, 0.5, True),
        ),
    )
    assert drawn(view) == (
        "tiny\ncpu kernel\n\n"
        "                       speed   ratio     rounds  a pass  accepted  same\n"
        "free chat  plain   250 tok/s                       1.00\n"
        "           lookup  245 tok/s  0.98 x  0.90-1.01    1.03     50.0%   yes"
    )


def test_speculative_refuses_peers(model: Path) -> None:
    result = llm("bench", model, "--speculative", "--against", "llama.cpp")
    assert (result.returncode, result.stdout) == (2, b"")
    assert "leave out --against" in result.stderr.decode()
