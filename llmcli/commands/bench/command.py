"""`llm bench`: measure the speed of a model on this machine, and compare it with other programs on the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.bench.speculative import bench_speculative
from llmcli.commands.shared import output
from llmcli.commands.shared.completion import MODELS, PEERS
from llmcli.commands.shared.load_model import find_checkpoint
from llmcli.commands.shared.options.flags import OUTPUT, flag, is_flag_given, only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.bench.results import BenchResult
    from llmcli.bench.target import BenchTarget

_ROUNDS, _QUICK_ROUNDS = 4, 2
_MEASURING = "What to measure"


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how often."""

    against: Annotated[
        str | None,
        flag(
            "--against",
            env=False,
            metavar="NAMES",
            autocompletion=PEERS,
            panel=_MEASURING,
            help="Also measure llama.cpp, transformers or transformers-compiled.",
        ),
    ] = None
    shape: Annotated[
        str | None,
        flag(
            "--shape",
            env=False,
            metavar="NAME",
            panel=_MEASURING,
            help="Measure random weights in the shape of a known model, such as llama-3.1-8b.",
        ),
    ] = None
    rounds: Annotated[
        int | None,
        flag(
            "--rounds",
            env=False,
            metavar="N",
            min=1,
            panel=_MEASURING,
            help="Measure everything N times, best an even number. Default: 4.",
        ),
    ] = None
    quick: Annotated[
        bool, flag("--quick", env=False, panel=_MEASURING, help="Measure two rounds of short texts and no cold start.")
    ] = False
    speculative: Annotated[
        bool,
        flag(
            "--speculative",
            env=False,
            panel=_MEASURING,
            help="Measure only what proposed tokens gain, by lookup and by a --draft model if given.",
        ),
    ] = False

    def count(self) -> int:
        """The number of rounds."""
        return self.rounds or (_QUICK_ROUNDS if self.quick else _ROUNDS)

    def check(self, *, model_given: bool, split: bool) -> None:
        """Raise `UsageError` for options that contradict each other."""
        if self.shape is not None and model_given:
            raise UsageError("--shape takes the place of a model; name one of them.")
        if self.speculative and self.against is not None:
            raise UsageError("--speculative compares this program with itself; leave out --against.")
        if self.speculative and self.shape is not None:
            raise UsageError("--speculative needs a trained model; leave out --shape.")
        if split and (self.speculative or self.shape is not None):
            raise UsageError("--tp is for the speed of a model in files, without --speculative and --shape.")


@with_options
def bench(
    invocation: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            envvar="LLMCLI_MODEL",
            autocompletion=MODELS,
            help="A folder, a .gguf file or a model's name. Default: the starter.",
            show_envvar=False,
        ),
    ] = None,
    *,
    bench_options: BenchOptions,
    draft_options: Annotated[SpeculationOptions, only("draft")],
    model_options: Annotated[
        ModelOptions, only("quantize", "dtype", "kv_cache", "device", "threads", "tensor_parallel")
    ],
    view_options: ViewOptions,
    out: Annotated[
        Path | None,
        flag("--out", env=False, metavar="FILE", panel=OUTPUT, help="Also write everything as JSON to a file."),
    ] = None,
    terminal_options: Annotated[TerminalOptions, only("color", "quiet")],
) -> None:
    """Measure start, prefill, decoding and memory, and the share of this machine's memory bandwidth used."""
    bench_options.check(model_given=is_flag_given(invocation, "model"), split=model_options.tensor_parallel > 1)
    if bench_options.speculative:
        checkpoint = find_checkpoint(model)
        bench_speculative(checkpoint, draft_options.draft, bench_options.count(), model_options, view_options, out)
        return
    target = _target(model, bench_options.shape, model_options.kv_cache)

    from llmcli.bench.results import OURS
    from llmcli.commands.bench.measure import measure, plan_benchmark

    plan = plan_benchmark(
        target,
        against=bench_options.against,
        rounds=bench_options.count(),
        quick=bench_options.quick,
        options=model_options,
    )
    for line in plan.notes:
        terminal.note(line)
    result, interrupted = measure(target, plan)
    _present(result, view_options, out)
    if interrupted:
        raise typer.Exit(130)
    if any(failure.arm == OURS for failure in result.failures):
        raise typer.Exit(1)


def _present(result: BenchResult, options: ViewOptions, out: Path | None) -> None:
    """Print the result, as a table or as JSON, and write the requested files."""
    from llmcli.views.reports.bench import NOTE, SCHEMA, BenchView
    from llmcli.views.terminal.to_json import json_line

    view = BenchView(result)
    output.write_files(view, title="llm bench", output=options)
    if options.as_json:
        terminal.write_line(json_line(SCHEMA, result))
    else:
        terminal.console_out().print(view)
        terminal.note(NOTE)
    if out is not None:
        from llmcli.files import replace_text

        replace_text(out, f"{json_line(SCHEMA, result)}\n")


def _target(model: str | None, shape: str | None, kv_cache: str) -> BenchTarget:
    """Find the model to measure, or make one of random weights with the shape `shape`."""
    if shape is None:
        checkpoint = find_checkpoint(model)

        from llmcli.bench.target import FileTarget

        return FileTarget(checkpoint, kv_cache)
    from llmcli.bench.target import ShapeTarget

    return ShapeTarget(shape, kv_cache)
