"""Plan the benchmark of `llm bench` before the first process starts, run it, and collect the results."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from llmcli.api import choose_packing
from llmcli.bench.arms.subprocesses import CAN_DROP
from llmcli.bench.hardware.machine import commit, this_machine, versions
from llmcli.bench.plan import DEVICE_FULL, FULL, QUICK, BenchPlan
from llmcli.bench.results import OURS, BenchResult, BenchSettings, Failure, Measurement, summarize
from llmcli.bench.run import ArmDescription, Benchmark, chosen_peers, refusal
from llmcli.commands.bench.progress import bench_progress
from llmcli.device import choose_device, choose_dtype

if TYPE_CHECKING:
    from llmcli.bench.target import BenchTarget
    from llmcli.commands.shared.options.model import ModelOptions


@dataclass(frozen=True)
class PlannedBenchmark:
    """A benchmark that can start."""

    benchmark: Benchmark
    asked: tuple[str, ...]
    """The requested peers."""
    refused: tuple[Failure, ...]
    """The requested peers that cannot run this model, with the reasons."""
    left_out: tuple[str, ...]
    """What is not measured, and why."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user before the benchmark starts."""
        return (*(f"{failure.arm}: {failure.message}" for failure in self.refused), *self.left_out)


def plan_benchmark(
    target: BenchTarget, *, against: str | None, rounds: int, quick: bool, options: ModelOptions
) -> PlannedBenchmark:
    """Check the options and plan the benchmark; starts no process.

    Raises:
        UsageError: there is no such peer, device, dtype or quantization.
    """
    import torch

    asked = chosen_peers(against)
    refused = tuple(Failure(peer, 0, why) for peer in asked if (why := refusal(peer, target.format)) is not None)
    where = choose_device(options.device)
    # Report wrong names now, not as failures of the processes that measure.
    choose_dtype(options.dtype, where, target.stored_dtype())
    choose_packing(options.quantize, where)
    full = FULL if where.type == "cpu" else DEVICE_FULL
    sizes, left_out = (QUICK if quick else full).within(target.config.context_length)
    if target.shape is not None:
        left_out = (*left_out, "Random weights of the real shape. Left out: starts; there are no files to start from.")
    elif not (CAN_DROP or quick):
        left_out = (*left_out, "Left out: cold starts; this system cannot drop a file from its page cache.")
    plan = BenchPlan(
        arm=OURS,
        model=target.path,
        device=str(where),
        dtype=options.dtype,
        threads=options.threads or torch.get_num_threads(),
        ids=target.ids(sizes),
        sizes=sizes,
        quantize=options.quantize,
        kv_cache=options.kv_cache,
        tensor_parallel=options.tensor_parallel,
        shape=target.shape,
    )
    benchmark = Benchmark(
        plan=plan,
        peers=tuple(peer for peer in asked if peer not in [failure.arm for failure in refused]),
        rounds=rounds,
        weight_files=target.weight_files if CAN_DROP and not quick else (),
    )
    return PlannedBenchmark(benchmark, tuple(asked), refused, tuple(left_out))


def measure(target: BenchTarget, planned: PlannedBenchmark) -> tuple[BenchResult, bool]:
    """Run the benchmark with progress on stderr; return the result, and whether Ctrl-C ended it early.

    Raises:
        KeyboardInterrupt: Ctrl-C before the first measurement.
    """
    benchmark, notes = planned.benchmark, planned.left_out
    measurements: list[Measurement] = []
    failures, hows = list(planned.refused), dict.fromkeys((OURS, *planned.asked), "")
    interrupted = False
    try:
        with (
            bench_progress(benchmark.rounds, benchmark.process_count) as show,
            closing(benchmark.run()) as events,
        ):
            for event in events:
                show(event)
                if isinstance(event, Measurement):
                    measurements.append(event)
                elif isinstance(event, Failure):
                    failures.append(event)
                elif isinstance(event, ArmDescription):
                    hows[event.arm] = event.how
    except KeyboardInterrupt:
        if not measurements:
            raise
        interrupted = True
        notes = (*notes, "Interrupted: this is what had been measured.")
    return _result(target, benchmark, measurements, failures, hows, notes), interrupted


def _result(
    target: BenchTarget,
    benchmark: Benchmark,
    measurements: Iterable[Measurement],
    failures: Iterable[Failure],
    hows: dict[str, str],
    notes: Iterable[str],
) -> BenchResult:
    import torch

    plan = benchmark.plan
    where = torch.device(plan.device)
    kept_in = choose_dtype(plan.dtype, where, target.stored_dtype())
    facts = target.facts(plan.sizes, kept_in, choose_packing(plan.quantize, where), where)
    of_peers = target.facts(plan.sizes, torch.bfloat16, None, where).bytes_per_token if plan.quantize else None
    return BenchResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=facts,
        machine=this_machine(where),
        versions=versions(list(hows), where),
        settings=BenchSettings(
            plan.device,
            plan.dtype,
            plan.threads,
            benchmark.rounds,
            plan.sizes.prefill,
            plan.sizes.contexts,
            plan.sizes.tokens,
            plan.quantize,
            plan.kv_cache,
            plan.tensor_parallel,
        ),
        arms=hows,
        summaries=summarize(measurements, facts.bytes_per_token, of_peers=of_peers),
        measurements=tuple(measurements),
        failures=tuple(failures),
        notes=tuple(notes),
        commit=commit(),
    )
