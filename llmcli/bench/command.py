"""`llm bench`: how fast a model runs here, where the time goes, and how peers do on the same file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands import options
from llmcli.commands.inspect import base
from llmcli.commands.loading import find_checkpoint
from llmcli.views import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from llmcli.bench.plan import Sizes
    from llmcli.bench.results import BenchResult, Failure, Measurement
    from llmcli.bench.run import Benchmark
    from llmcli.checkpoint.opened import Checkpoint

_ROUNDS, _QUICK_ROUNDS = 4, 2


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            envvar="LLMCLI_MODEL",
            help="A folder, a .gguf file or a model's name. Default: the starter.",
            show_envvar=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAMES", help="Programs to compare with: llama.cpp,transformers."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="Measure everything N times. Default: 4; even is fairest."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of short texts, and no cold start: a first idea.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", envvar="LLMCLI_THREADS", metavar="N", min=1, help="Default: one for each core."),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: base.AsJson = False,
    html: base.Html = None,
    svg: base.Svg = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure start, reading, writing and memory, and the share of this machine's bandwidth that is reached."""
    checkpoint = find_checkpoint(model, quiet=quiet)

    from llmcli.bench.plan import FULL, QUICK
    from llmcli.bench.processes import CAN_DROP
    from llmcli.bench.progress import bench_progress
    from llmcli.bench.results import Failure, Measurement
    from llmcli.bench.run import How, chosen_peers, refusal
    from llmcli.views.bench import NOTE, SCHEMA, BenchView
    from llmcli.views.plain_json import json_line

    asked = chosen_peers(against)
    sizes, notes = (QUICK if quick else FULL).within(checkpoint.config.context_length)
    if not (CAN_DROP or quick):
        notes = (*notes, "Left out: cold starts; this system cannot be asked to forget a file.")
    refused = [Failure(peer, 0, why) for peer in asked if (why := refusal(peer, checkpoint.format)) is not None]
    benchmark = _benchmark(
        checkpoint,
        sizes,
        peers=[peer for peer in asked if peer not in [failure.arm for failure in refused]],
        rounds=rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        threads=threads,
        device=device,
        dtype=dtype,
        cold=CAN_DROP and not quick,
    )
    for line in () if quiet else (*(f"{failure.arm}: {failure.message}" for failure in refused), *notes):
        terminal.note(line)
    measurements: list[Measurement] = []
    failures, hows = list(refused), dict.fromkeys(("llmcli", *asked), "")
    interrupted = False
    try:
        with (
            bench_progress(benchmark.rounds, benchmark.process_count, enabled=not quiet) as show,
            closing(benchmark.run()) as events,
        ):
            for event in events:
                show(event)
                if isinstance(event, Measurement):
                    measurements.append(event)
                elif isinstance(event, Failure):
                    failures.append(event)
                elif isinstance(event, How):
                    hows[event.arm] = event.how
    except KeyboardInterrupt:
        if not measurements:
            raise
        interrupted = True
        notes = (*notes, "Interrupted: this is what had been measured.")
    result = _result(checkpoint, benchmark, measurements, failures, hows, notes)
    view = BenchView(result)
    base.write_files(view, title="llm bench", html=html, svg=svg)
    if as_json:
        terminal.write_line(json_line(SCHEMA, result))
    else:
        terminal.console_out().print(view)
        if not quiet:
            terminal.note(NOTE)
    if interrupted:
        raise typer.Exit(130)
    if any(failure.arm == "llmcli" for failure in failures):
        raise typer.Exit(1)


def _benchmark(
    checkpoint: Checkpoint,
    sizes: Sizes,
    *,
    peers: list[str],
    rounds: int,
    threads: int | None,
    device: str,
    dtype: str,
    cold: bool,
) -> Benchmark:
    """Everything that is decided before the first process starts."""
    import torch

    from llmcli.bench.plan import Plan
    from llmcli.bench.results import OURS
    from llmcli.bench.run import Benchmark
    from llmcli.device import choose_device, choose_dtype

    where = choose_device(device)
    choose_dtype(dtype, where, checkpoint.stored_dtype())  # a wrong name is an error now, not of an arm
    return Benchmark(
        plan=Plan(
            arm=OURS,
            model=str(checkpoint.path.absolute()),
            device=str(where),
            dtype=dtype,
            threads=threads or torch.get_num_threads(),
            ids=_ids(checkpoint, sizes),
            sizes=sizes,
        ),
        peers=tuple(peers),
        rounds=rounds,
        weight_files=_weight_files(checkpoint) if cold else (),
    )


def _ids(checkpoint: Checkpoint, sizes: Sizes) -> tuple[int, ...]:
    """Enough of a text for every pass, in this model's tokens."""
    from llmcli.bench.plan import benchmark_text, enough

    tokenizer = checkpoint.read_text_parts().tokenizer
    sentences = 1
    while True:
        ids = tokenizer.encode(benchmark_text(sentences), add_special_tokens=False)
        if enough(ids, sizes):
            return tuple(ids[: sizes.longest + sizes.passes])
        sentences *= 2


def _weight_files(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The files that hold the model: all of a folder, all parts of a GGUF."""
    from llmcli.checkpoint.tensors import TensorInfo

    if checkpoint.path.is_dir():
        return tuple(sorted(path for path in checkpoint.path.iterdir() if path.is_file()))
    parts = {stored.path for stored in checkpoint.tensors.values() if isinstance(stored, TensorInfo)}
    return tuple(sorted(parts | {checkpoint.path}))


def _result(
    checkpoint: Checkpoint,
    benchmark: Benchmark,
    measurements: Iterable[Measurement],
    failures: Iterable[Failure],
    hows: dict[str, str],
    notes: Iterable[str],
) -> BenchResult:
    from datetime import datetime, timezone

    import torch

    from llmcli.bench.machine import this_machine, versions
    from llmcli.bench.results import BenchResult, Settings, summarise
    from llmcli.bench.traffic import model_facts

    plan, facts = benchmark.plan, model_facts(checkpoint, benchmark.plan.sizes)
    return BenchResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=facts,
        machine=this_machine(torch.device(plan.device)),
        versions=versions(list(hows)),
        settings=Settings(
            plan.device,
            plan.dtype,
            plan.threads,
            benchmark.rounds,
            plan.sizes.prefill,
            plan.sizes.contexts,
            plan.sizes.tokens,
        ),
        arms=hows,
        summaries=summarise(measurements, facts.bytes_per_token),
        measurements=tuple(measurements),
        failures=tuple(failures),
        notes=tuple(notes),
    )
