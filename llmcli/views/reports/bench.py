"""A benchmark as one table: one row per measurement, one column per program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.table import Table
from rich.text import Text

from llmcli.sizes import size
from llmcli.views.reports.show import count
from llmcli.views.terminal.colors import RED
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from llmcli.bench.results import BenchResult, Measure, Summary

SCHEMA = "llmcli.bench/1"
NOTE = (
    "Medians, with minimum and maximum if there is room. 3.0 x: llmcli is 3 times faster, or smaller. from start: a "
    "process that generates one token; llmcli runs all of `llm generate`, peers neither encode nor decode text. cold: "
    "the model's files are dropped from the page cache first. written: greedy decoding; at default settings: each "
    "program's own sampling, with prompt lookup in llmcli. of the bandwidth: bytes read per token (weights as stored "
    "in the file or as set by --quantize or --shape, keys and values in 16 bits) times tokens per second. peak memory: "
    "resident; short reply: after one short prompt and its reply. All programs get the same file, tokens and threads."
)

_Detail: TypeAlias = Literal["all", "no spread", "medians"]
_DETAILS: tuple[_Detail, ...] = ("all", "no spread", "medians")


class BenchView:
    """The model and the machine, the table, and the machine's own limits."""

    def __init__(self, result: BenchResult) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result = self._result
        title = Text(visible(result.model.name), style="bold")
        model = result.model
        facts = f"  {model.format}, {count(model.parameters)} parameters, {size(model.stored_bytes)}"
        yield title.append(facts, style="default not bold")
        yield from (Text(visible(line), style="dim") for line in _circumstances(result))
        for table in _fitting(result, console, options):
            yield Text()
            yield table
        yield Text()
        yield from (Text(line) for line in _beside(result))
        yield from (Text(visible(f"{one.arm}: {one.message}"), style=RED) for one in result.failures)
        yield from (Text(visible(note), style="dim") for note in result.notes)


def _circumstances(result: BenchResult) -> Iterator[str]:
    machine, settings = result.machine, result.settings
    where = machine.gpu or machine.cpu
    cores = f"{machine.physical_cores} core{'s' * (machine.physical_cores > 1)}"
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    rounds = f"{settings.rounds} round{'s' * (settings.rounds > 1)}"
    how = f"{settings.device}, {settings.quantize}" if settings.quantize else settings.device
    if settings.tensor_parallel > 1:
        how = f"{how}, {settings.tensor_parallel} ranks"
    yield f"{where}, {cores}, {size(machine.memory_bytes)} · {how}, {threads}, {rounds} · {result.date}"
    yield " · ".join(f"{name} {version}" for name, version in result.versions.items())
    yield from (f"{arm}: {how}" for arm, how in result.arms.items() if how)


def _fitting(result: BenchResult, console: Console, options: ConsoleOptions) -> list[Table]:
    """One table with as much detail as fits the width; if even medians do not fit, one table per program."""
    arms = [arm for arm in result.arms if any(one.arm == arm for one in result.summaries)]
    unlimited = options.update(max_width=1000)
    for detail in _DETAILS if arms else ():
        table = _table(result, arms, detail)
        if console.measure(table, options=unlimited).maximum <= options.max_width:
            return [table]
    return [_table(result, [arm], "medians") for arm in arms]


def _table(result: BenchResult, arms: list[str], detail: _Detail) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for arm in arms:
        table.add_column(arm, justify="right")
        if detail == "all":
            table.add_column("", style="dim")
        if detail != "medians" and arm != arms[0]:
            table.add_column("", justify="right")
    for title, rows in _sections(result):
        filled = False
        for label, measure, tokens, kind in rows:
            found = [result.summary(arm, measure, tokens) for arm in arms]
            if not any(found):
                continue
            if not filled:
                table.add_row(Text(title, style="dim"))
                filled = True
            cells = [_cells(one, kind, detail, peer=column > 0) for column, one in enumerate(found)]
            table.add_row(f"  {label}", *(cell for some in cells for cell in some))
    return table


_Kind: TypeAlias = Literal["seconds", "rate", "share", "bytes"]
_Row: TypeAlias = "tuple[str, Measure, int | None, _Kind]"


def _sections(result: BenchResult) -> Iterator[tuple[str, list[_Row]]]:
    contexts = result.settings.contexts
    after = [f"after {tokens} tokens" for tokens in contexts]
    yield (
        "from start, seconds",
        [
            ("first token, cold", "first_token_cold_s", None, "seconds"),
            ("first token", "first_token_warm_s", None, "seconds"),
            ("exit, cold", "exit_cold_s", None, "seconds"),
            ("exit", "exit_warm_s", None, "seconds"),
        ],
    )
    yield (
        "read, tokens/s",
        [(f"{tokens} tokens", "prefill_tokens_per_s", tokens, "rate") for tokens in result.settings.prefill],
    )
    yield (
        "written, tokens/s",
        [(label, "decode_tokens_per_s", tokens, "rate") for label, tokens in zip(after, contexts, strict=True)],
    )
    yield (
        "at default settings",
        [(label, "default_decode_tokens_per_s", tokens, "rate") for label, tokens in zip(after, contexts, strict=True)],
    )
    if any(one.bandwidth_share is not None for one in result.summaries):
        yield (
            "of the bandwidth",
            [(label, "decode_tokens_per_s", tokens, "share") for label, tokens in zip(after, contexts, strict=True)],
        )
    yield (
        "peak memory",
        [
            ("short reply", "peak_memory_short_bytes", None, "bytes"),
            ("whole run", "peak_memory_bytes", None, "bytes"),
            ("on the device", "device_memory_bytes", None, "bytes"),
        ],
    )


def _cells(one: Summary | None, kind: _Kind, detail: _Detail, *, peer: bool) -> list[str]:
    """The cells of one program: median, then spread and ratio if they have columns."""
    median = spread = ratio = ""
    if one is not None:
        form = _FORMS[kind]
        value = one.bandwidth_share if kind == "share" else one.median
        median = "" if value is None else form(value)
        if kind in ("seconds", "rate") and one.count > 1:
            spread = f"{form(one.min)}-{form(one.max)}"
        if kind != "share" and one.ours_times_better is not None:
            ratio = f"{one.ours_times_better:.1f} x" if one.ours_times_better >= 1 else f"{one.ours_times_better:.2f} x"
    return [median] + [spread] * (detail == "all") + [ratio] * (peer and detail != "medians")


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


_FORMS: dict[_Kind, Callable[[float], str]] = {
    "seconds": lambda value: f"{value:.2f}",
    "rate": _rate,
    "share": lambda value: f"{value:.0%}",
    "bytes": size,
}


def _beside(result: BenchResult) -> Iterator[str]:
    """Measurements of the machine itself, and the bytes read per token."""
    seconds = result.summary("machine", "import_torch_s")
    memory = result.summary("machine", "import_torch_bytes")
    if seconds is not None:
        yield f"import torch alone: {seconds.median:.2f} s" + (f", {size(memory.median)}" if memory else "")
    bandwidth = result.summary("machine", "bandwidth_bytes_per_s")
    if bandwidth is not None:
        each = ", ".join(f"{size(read)} after {tokens}" for tokens, read in result.model.bytes_per_token.items())
        reads = f"; read per token: {each} tokens" if each else ""
        yield f"bandwidth: {bandwidth.median / 1e9:.1f} GB/s{reads}"
    ours = result.summary("machine", "load_bytes_per_s")
    theirs = result.summary("machine", "safe_open_bytes_per_s")
    if ours is not None and theirs is not None:
        yield f"weights to the device: {ours.median / 1e9:.1f} GB/s, by safe_open {theirs.median / 1e9:.1f} GB/s"
