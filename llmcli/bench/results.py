"""The results of a benchmark: every measurement, and their summaries."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Measure: TypeAlias = Literal[
    "first_token_cold_s",
    "first_token_warm_s",
    "exit_cold_s",
    "exit_warm_s",
    "import_torch_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "default_decode_tokens_per_s",
    "peak_memory_short_bytes",
    "peak_memory_bytes",
    "device_memory_bytes",
    "import_torch_bytes",
    "bandwidth_bytes_per_s",
    "load_bytes_per_s",
    "safe_open_bytes_per_s",
]
"""The measures; each name ends in the unit. Greater is better for those per second, smaller for all others.

`decode` is greedy, `default_decode` samples with a program's default settings.
"""
MEASURES: tuple[Measure, ...] = get_args(Measure)

OURS, MACHINE = "llmcli", "machine"
"""The arm of this program, and the arm that measures the machine."""


@dataclass(frozen=True)
class Measurement:
    """One number, measured in one process."""

    arm: str
    round: int
    """Counted from 1."""
    measure: Measure
    size: int | None
    """Tokens of the prompt; None for measures without a prompt."""
    value: float


@dataclass(frozen=True)
class Failure:
    """Why an arm has no measurements, or none from a round on."""

    arm: str
    round: int
    """The round in which it failed; 0 if it could not start at all."""
    message: str


@dataclass(frozen=True)
class Summary:
    """The summary of all measurements of one kind."""

    arm: str
    measure: Measure
    size: int | None
    count: int
    median: float
    min: float
    max: float
    bandwidth_share: float | None
    """For decoding: bytes read per token times tokens per second, divided by the bandwidth measured in the same run."""
    ours_times_better: float | None
    """For a peer: how many times faster, or smaller, llmcli is, median over median."""


@dataclass(frozen=True)
class ModelFacts:
    """The model that was run, and the bytes that one decode step reads."""

    name: str
    path: str
    format: str
    parameters: int
    context_length: int
    stored_bytes: int
    """Bytes of all weights in the files."""
    weight_bytes_per_token: int
    """Bytes of every matrix that a decode step reads, as stored or, where that was chosen, as kept in memory. Of
    experts only the chosen ones count, and an embedding that is not also the head does not."""
    bytes_per_token: Mapping[int, int]
    """For each measured context: those weights, and keys and values in 16 bits half-way through the reply."""
    random_weights: bool = False
    """Whether it has the sizes of the model it is named after, but random weights."""


@dataclass(frozen=True)
class MachineInfo:
    """The machine of a benchmark."""

    cpu: str
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    gpu: str | None
    system: str


@dataclass(frozen=True)
class BenchSettings:
    """The settings of a benchmark."""

    device: str
    dtype: str
    threads: int
    rounds: int
    prefill: tuple[int, ...]
    contexts: tuple[int, ...]
    decoded_tokens: int
    quantize: str | None = None
    kv_cache: str = "auto"
    tensor_parallel: int = 1


@dataclass(frozen=True)
class BenchResult:
    """The complete result of one run of the benchmark."""

    date: str
    """ISO 8601, UTC."""
    model: ModelFacts
    machine: MachineInfo
    versions: Mapping[str, str]
    settings: BenchSettings
    arms: Mapping[str, str]
    """Every arm, this program first, with its precision, path and special settings."""
    summaries: tuple[Summary, ...]
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    """Which measurements were left out, and why."""
    commit: str | None = None
    """This program's commit, if it runs from a repository; "-dirty" is added if files differ from it."""

    def summary(self, arm: str, measure: Measure, size: int | None = None) -> Summary | None:
        """The summary of one kind of measurement, if there is one."""
        found = (one for one in self.summaries if (one.arm, one.measure, one.size) == (arm, measure, size))
        return next(found, None)


def summarize(
    measurements: Iterable[Measurement],
    bytes_per_token: Mapping[int, int],
    *,
    of_peers: Mapping[int, int] | None = None,
) -> tuple[Summary, ...]:
    """Medians, extremes, ratios and shares, in the order of `MEASURES` and of the first measurements of each arm.

    `bytes_per_token` maps a context to the bytes that a decode step reads; `of_peers` is the same for other programs,
    where only this one quantizes.
    """
    values: dict[tuple[str, Measure, int | None], list[float]] = {}
    for one in measurements:
        values.setdefault((one.arm, one.measure, one.size), []).append(one.value)
    medians = {key: statistics.median(found) for key, found in values.items()}
    bandwidth = medians.get((MACHINE, "bandwidth_bytes_per_s", None))

    def share(arm: str, measure: Measure, size: int | None, rate: float) -> float | None:
        read = bytes_per_token if arm == OURS or of_peers is None else of_peers
        if measure != "decode_tokens_per_s" or size is None or not bandwidth or size not in read:
            return None
        return read[size] * rate / bandwidth

    def times_better(arm: str, measure: Measure, size: int | None) -> float | None:
        ours, theirs = medians.get((OURS, measure, size)), medians[arm, measure, size]
        if arm in (OURS, MACHINE) or not ours or not theirs:
            return None
        return ours / theirs if measure.endswith("_per_s") else theirs / ours

    order = sorted(values, key=lambda key: (MEASURES.index(key[1]), -1 if key[2] is None else key[2]))
    return tuple(
        Summary(
            arm=arm,
            measure=measure,
            size=size,
            count=len(found),
            median=medians[arm, measure, size],
            min=min(found),
            max=max(found),
            bandwidth_share=share(arm, measure, size, medians[arm, measure, size]),
            ours_times_better=times_better(arm, measure, size),
        )
        for arm, measure, size in order
        for found in [values[arm, measure, size]]
    )


def in_turn(arms: Sequence[str], round_: int) -> list[str]:
    """The order of the arms in a round, counted from 1: reversed in every second round (ABBA).

    Slow drifts, by heat or other programs, then affect all arms equally over every two rounds.
    """
    return list(arms) if round_ % 2 else list(reversed(arms))
