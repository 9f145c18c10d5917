"""Run the benchmark: start separate processes for every arm in every round, and yield their measurements."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmcli.bench.arms.llmcli import start_command
from llmcli.bench.arms.protocol import ArmError
from llmcli.bench.arms.subprocesses import ARM, answers, drop_from_page_cache, environment, timed
from llmcli.bench.plan import BenchPlan
from llmcli.bench.results import MACHINE, MEASURES, OURS, Failure, Measure, Measurement, in_turn
from llmcli.errors import UsageError
from llmcli.extras import install_command

PEERS = {
    "llama.cpp": ("llama_cpp", "llama-cpp-python"),
    "transformers": ("transformers", "transformers"),
    "transformers-compiled": ("transformers", "transformers"),
}
"""The programs to compare with: the module and the distribution of each."""


@dataclass(frozen=True)
class WorkStarted:
    """A piece of work has started, for the progress display."""

    round: int
    arm: str
    what: str
    """ "start", "prefill", "decode", "warm-up", "bandwidth" or "import torch"."""
    size: int | None = None


@dataclass(frozen=True)
class ProcessEnded:
    """One of the processes counted by `process_count` has ended."""


@dataclass(frozen=True)
class ArmDescription:
    """An arm's description of its precision, path and settings."""

    arm: str
    how: str


Event = WorkStarted | ProcessEnded | ArmDescription | Measurement | Failure


def chosen_peers(text: str | None) -> list[str]:
    """The peers named in a list separated by commas.

    Raises:
        UsageError: a name is not a peer's.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise UsageError(f"There is no peer called {name!r}; --against takes {', '.join(PEERS)}.")
    return list(dict.fromkeys(names))


def refusal(arm: str, format_: str) -> str | None:
    """Why a peer cannot run a model of this format on this machine; None if it can."""
    module, distribution = PEERS[arm]
    if importlib.util.find_spec(module) is None:
        return f"{distribution} is not installed; this installs it: {install_command('bench')}"
    if arm == "llama.cpp" and format_ != "GGUF":
        return f"llama.cpp runs GGUF files only; this model is {format_}."
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if arm != "llama.cpp" and format_ == "GGUF" and missing:
        needs = " and ".join(missing)
        return (
            f"transformers needs {needs} to read GGUF files; this installs what is missing: {install_command('bench')}"
        )
    return None


@dataclass(frozen=True)
class Benchmark:
    """The arms to measure, the plan, and the number of rounds."""

    plan: BenchPlan
    """The plan for this program; peers get the same with another arm's name."""
    peers: tuple[str, ...]
    rounds: int
    weight_files: tuple[Path, ...]
    """Files to drop from the page cache before a cold start; without any, cold starts are left out."""

    @property
    def process_count(self) -> int:
        """Number of processes that will be started, if none fails."""
        starts = 0 if self.plan.shape is not None else 1 + bool(self.weight_files)
        return self.rounds * (2 + (1 + len(self.peers)) * (1 + starts))

    def run(self) -> Generator[Event, None, None]:
        """Run the benchmark and yield events as they happen. An arm that has failed is left out in later rounds."""
        failed: set[str] = set()
        env = environment(self.plan.threads)
        for round_ in range(1, self.rounds + 1):
            for arm in (MACHINE, *in_turn((OURS, *self.peers), round_)):
                if arm in failed:
                    continue
                try:
                    yield from self._machine(round_, env) if arm == MACHINE else self._arm(arm, round_, env)
                except ArmError as error:
                    failed.add(arm)
                    yield Failure(arm, round_, str(error))

    def _machine(self, round_: int, env: dict[str, str]) -> Iterator[Event]:
        yield WorkStarted(round_, MACHINE, "bandwidth")
        for answer in answers(replace(self.plan, arm=MACHINE), env):
            yield from _events(MACHINE, round_, answer)
        yield ProcessEnded()
        yield WorkStarted(round_, MACHINE, "import torch")
        times = timed((sys.executable, "-c", "import torch"), env)
        yield Measurement(MACHINE, round_, "import_torch_s", None, times.exit_s)
        yield ProcessEnded()

    def _arm(self, arm: str, round_: int, env: dict[str, str]) -> Iterator[Event]:
        plan = replace(self.plan, arm=arm)
        if self.weight_files:
            drop_from_page_cache(self.weight_files)
            yield from self._start(plan, round_, env, "first_token_cold_s", "exit_cold_s")
        if plan.shape is None:
            yield from self._start(plan, round_, env, "first_token_warm_s", "exit_warm_s")
        for answer in answers(plan, env):
            yield from _events(arm, round_, answer)
        yield ProcessEnded()

    def _start(
        self, plan: BenchPlan, round_: int, env: dict[str, str], first: Measure, end: Measure
    ) -> Iterator[Event]:
        yield WorkStarted(round_, plan.arm, "start")
        command, sent = (start_command(plan), None) if plan.arm == OURS else (ARM, replace(plan, start_only=True))
        times = timed(command, env, sent)
        if times.first_output_s is not None:
            yield Measurement(plan.arm, round_, first, None, times.first_output_s)
        yield Measurement(plan.arm, round_, end, None, times.exit_s)
        yield ProcessEnded()


def _events(arm: str, round_: int, answer: dict[str, object]) -> Iterator[Event]:
    """Convert one answer of an arm's process to an event."""
    size = answer.get("size")
    tokens = size if isinstance(size, int) else None
    if "doing" in answer:
        yield WorkStarted(round_, arm, str(answer["doing"]), tokens)
    elif "how" in answer:
        yield ArmDescription(arm, str(answer["how"]))
    else:
        measure = next(name for name in MEASURES if name == answer["measure"])
        yield Measurement(arm, round_, measure, tokens, float(str(answer["value"])))
