"""`llm bench`: how fast a model runs here, where the time goes, and how peers do on the same file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.bench.speculative import Loading, bench_speculative
from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint
from llmcli.commands.shared.speculative import Draft
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.bench.results import BenchResult, Failure, Measurement
    from llmcli.bench.run import Benchmark
    from llmcli.bench.target import BenchTarget

_ROUNDS, _QUICK_ROUNDS = 4, 2


def bench(
    invocation: typer.Context,
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
        typer.Option("--against", metavar="NAMES", help="llama.cpp, transformers, transformers-compiled."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="NAME", help="Random weights of a known model's sizes, such as llama-3.1-8b."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="Measure everything N times. Default: 4; even is fairest."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of short texts, and no cold start: a first idea.")
    ] = False,
    speculative: Annotated[
        bool,
        typer.Option(
            "--speculative",
            help="Measure only what proposing tokens gains: by lookup, and by a --draft model if one is given.",
        ),
    ] = False,
    draft: Draft = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", envvar="LLMCLI_THREADS", metavar="N", min=1, help="Default: one for each core."),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    as_json: output.AsJson = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write everything as JSON to a file.")
    ] = None,
    html: output.Html = None,
    svg: output.Svg = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure start, reading, writing and memory, and the share of this machine's bandwidth that is reached."""
    if shape is not None and options.is_flag_given(invocation, "model"):
        raise UsageError("--shape takes the place of a model; name one of them.")
    rounds = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    if speculative:
        if against is not None:
            raise UsageError("--speculative compares this program with itself; leave out --against.")
        if shape is not None:
            raise UsageError("--speculative needs a model that says something; leave out --shape.")
        how = Loading(device=device, dtype=dtype, quantize=quantize, threads=threads)
        checkpoint = find_checkpoint(model)
        bench_speculative(checkpoint, draft, rounds, how, as_json=as_json, out=out, html=html, svg=svg)
        return
    target = _target(model, shape)

    from llmcli.bench.arms.subprocesses import CAN_DROP
    from llmcli.bench.results import Failure, Measurement
    from llmcli.bench.run import ArmDescription, chosen_peers, refusal
    from llmcli.commands.bench.progress import bench_progress

    asked = chosen_peers(against)
    refused = [Failure(peer, 0, why) for peer in asked if (why := refusal(peer, target.format)) is not None]
    cold = CAN_DROP and not quick and bool(target.weight_files)
    benchmark, notes = _benchmark(
        target,
        peers=[peer for peer in asked if peer not in [failure.arm for failure in refused]],
        rounds=rounds,
        quick=quick,
        threads=threads,
        device=device,
        dtype=dtype,
        quantize=quantize,
        cold=cold,
    )
    if shape is not None:
        notes = (*notes, "Random weights of the real shape. Left out: starts; there are no files to start from.")
    elif not (CAN_DROP or quick):
        notes = (*notes, "Left out: cold starts; this system cannot be asked to forget a file.")
    for line in (*(f"{failure.arm}: {failure.message}" for failure in refused), *notes):
        terminal.note(line)
    measurements: list[Measurement] = []
    failures, hows = list(refused), dict.fromkeys(("llmcli", *asked), "")
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
    result = _result(target, benchmark, measurements, failures, hows, notes)
    _present(result, as_json=as_json, out=out, html=html, svg=svg)
    if interrupted:
        raise typer.Exit(130)
    if any(failure.arm == "llmcli" for failure in failures):
        raise typer.Exit(1)


def _present(result: BenchResult, *, as_json: bool, out: Path | None, html: Path | None, svg: Path | None) -> None:
    """Print the result, as a table or as JSON, and write the files that were asked for."""
    from llmcli.views.reports.bench import NOTE, SCHEMA, BenchView
    from llmcli.views.terminal.to_json import json_line

    view = BenchView(result)
    output.write_files(view, title="llm bench", html=html, svg=svg)
    if as_json:
        terminal.write_line(json_line(SCHEMA, result))
    else:
        terminal.console_out().print(view)
        terminal.note(NOTE)
    if out is not None:
        from llmcli.files import replace_text

        replace_text(out, f"{json_line(SCHEMA, result)}\n")


def _target(model: str | None, shape: str | None) -> BenchTarget:
    """What is to be measured."""
    if shape is None:
        checkpoint = find_checkpoint(model)

        from llmcli.bench.target import FileTarget

        return FileTarget(checkpoint)
    from llmcli.bench.target import ShapeTarget

    return ShapeTarget(shape)


def _benchmark(
    target: BenchTarget,
    *,
    peers: list[str],
    rounds: int,
    quick: bool,
    threads: int | None,
    device: str,
    dtype: str,
    quantize: str | None,
    cold: bool,
) -> tuple[Benchmark, tuple[str, ...]]:
    """Everything that is decided before the first process starts, and what is left out."""
    import torch

    from llmcli.api import choose_packing
    from llmcli.bench.plan import DEVICE_FULL, FULL, QUICK, BenchPlan
    from llmcli.bench.results import OURS
    from llmcli.bench.run import Benchmark
    from llmcli.device import choose_device, choose_dtype

    where = choose_device(device)
    # A wrong name is an error now, not of an arm.
    choose_dtype(dtype, where, target.stored_dtype())
    choose_packing(quantize, where)
    full = FULL if where.type == "cpu" else DEVICE_FULL
    sizes, notes = (QUICK if quick else full).within(target.config.context_length)
    benchmark = Benchmark(
        plan=BenchPlan(
            arm=OURS,
            model=target.path,
            device=str(where),
            dtype=dtype,
            threads=threads or torch.get_num_threads(),
            ids=target.ids(sizes),
            sizes=sizes,
            quantize=quantize,
            shape=target.shape,
        ),
        peers=tuple(peers),
        rounds=rounds,
        weight_files=target.weight_files if cold else (),
    )
    return benchmark, notes


def _result(
    target: BenchTarget,
    benchmark: Benchmark,
    measurements: Iterable[Measurement],
    failures: Iterable[Failure],
    hows: dict[str, str],
    notes: Iterable[str],
) -> BenchResult:
    from datetime import datetime, timezone

    import torch

    from llmcli.api import choose_packing
    from llmcli.bench.hardware.machine import commit, this_machine, versions
    from llmcli.bench.results import BenchResult, BenchSettings, summarize
    from llmcli.device import choose_dtype

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
        ),
        arms=hows,
        summaries=summarize(measurements, facts.bytes_per_token, of_peers=of_peers),
        measurements=tuple(measurements),
        failures=tuple(failures),
        notes=tuple(notes),
        commit=commit(),
    )
