"""The order of starts and measurements, with fake answers instead of processes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.bench import run
from llmcli.bench.arms.protocol import ArmError
from llmcli.bench.arms.subprocesses import Times
from llmcli.bench.plan import BenchPlan, Sizes
from llmcli.bench.results import Failure, Measurement
from llmcli.bench.run import ArmDescription, Benchmark, ProcessEnded, WorkStarted, chosen_peers, refusal
from llmcli.errors import UsageError

PLAN = BenchPlan("llmcli", "/m.gguf", "cpu", "bfloat16", 2, (1, 2, 3), Sizes((2,), (0,), 2))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The starts and measurements in order; "transformers" fails while it is measured."""
    done: list[str] = []

    def timed(command: Sequence[str], env: Mapping[str, str], plan: BenchPlan | None = None) -> Times:
        arm = plan.arm if plan is not None else "llmcli" if "generate" in command else "torch"
        assert plan is None or plan.start_only
        done.append(f"{arm} starts")
        return Times(None if arm == "torch" else 1.0, 2.0)

    def answers(plan: BenchPlan, env: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        assert env["OMP_NUM_THREADS"] == "2"
        done.append(plan.arm)
        yield {"doing": "prefill", "size": 2}
        if plan.arm == "transformers":
            raise ArmError("no luck")
        yield {"measure": "prefill_tokens_per_s", "size": 2, "value": 7}
        yield {"how": f"by {plan.arm}"}

    def drop_from_page_cache(files: Sequence[Path]) -> None:
        done.append("drop")

    for function in (timed, answers, drop_from_page_cache):
        monkeypatch.setattr(run, function.__name__, function)
    return done


def test_arms_alternate_and_a_failed_arm_is_left_out(log: list[str]) -> None:
    benchmark = Benchmark(PLAN, ("llama.cpp", "transformers"), 3, (Path("m"),))
    events = list(benchmark.run())
    machine = ["machine", "torch starts"]
    ours, llama, failing = (
        ["drop", f"{arm} starts", f"{arm} starts", arm] for arm in ("llmcli", "llama.cpp", "transformers")
    )
    assert log == machine + ours + llama + failing + machine + llama + ours + machine + ours + llama
    assert [event for event in events if isinstance(event, Failure)] == [Failure("transformers", 1, "no luck")]
    assert {event.arm: event.how for event in events if isinstance(event, ArmDescription)} == {
        arm: f"by {arm}" for arm in ("machine", "llmcli", "llama.cpp")
    }
    assert WorkStarted(3, "llmcli", "prefill", 2) in events
    found = [event for event in events if isinstance(event, Measurement)]
    assert Measurement("llmcli", 2, "first_token_cold_s", None, 1.0) in found
    assert Measurement("llmcli", 2, "exit_warm_s", None, 2.0) in found
    assert Measurement("machine", 3, "import_torch_s", None, 2.0) in found
    assert Measurement("llama.cpp", 3, "prefill_tokens_per_s", 2, 7.0) in found
    # `process_count` also counts the failed process, and the three that were left out in each of two later rounds.
    assert benchmark.process_count == sum(isinstance(event, ProcessEnded) for event in events) + 1 + 2 * 3


def test_without_files_to_drop_there_is_no_cold_start(log: list[str]) -> None:
    benchmark = Benchmark(PLAN, (), 1, ())
    events = list(benchmark.run())
    assert log == ["machine", "torch starts", "llmcli starts", "llmcli"]
    assert benchmark.process_count == sum(isinstance(event, ProcessEnded) for event in events) == 4


def test_peers_are_chosen_by_name() -> None:
    assert chosen_peers(None) == chosen_peers("") == []
    assert chosen_peers(" transformers,llama.cpp,transformers") == ["transformers", "llama.cpp"]
    with pytest.raises(UsageError, match=r"'ollama'; --against takes llama.cpp, transformers, transformers-compiled"):
        chosen_peers("llama.cpp,ollama")


@pytest.mark.parametrize(
    ("arm", "format_", "missing", "words"),
    [
        ("llama.cpp", "GGUF", {"llama_cpp"}, r"llama-cpp-python is not installed; .* install 'llmcli\[bench\]'"),
        (
            "transformers",
            "safetensors",
            {"transformers"},
            r"transformers is not installed; .* -m pip install",
        ),
        ("llama.cpp", "safetensors", set(), "GGUF files only; this model is safetensors"),
        ("transformers", "GGUF", {"gguf", "accelerate"}, r"needs gguf and accelerate .* -m pip install"),
        ("transformers", "safetensors", {"gguf"}, None),
        ("transformers", "GGUF", set(), None),
        ("llama.cpp", "GGUF", set(), None),
    ],
)
def test_peers_that_cannot_run_are_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, arm: str, format_: str, missing: set[str], words: str | None
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else name)
    why = refusal(arm, format_)
    if words is None:
        assert why is None
    else:
        assert why is not None
        assert re.search(words, why)
