"""What a benchmark found: every single measurement, and what they come to."""

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
    "decode_unread_bytes",
    "default_decode_tokens_per_s",
    "peak_memory_short_bytes",
    "peak_memory_bytes",
    "device_memory_bytes",
    "import_torch_bytes",
    "bandwidth_bytes_per_s",
    "load_bytes_per_s",
    "safe_open_bytes_per_s",
]
"""What is measured; the name ends in the unit. Of those per second more is better, of all others less.

Tokens of `decode` are the most probable ones, those of `default_decode` are chosen by a program's default settings.
Bytes are unread of weights, for each token written, where nothing depended on them: no choice of a token did, or they
follow from others.
"""
MEASURES: tuple[Measure, ...] = get_args(Measure)

OURS, MACHINE = "llmcli", "machine"
"""The arm that is this program, and the one that stands for the machine itself."""


@dataclass(frozen=True)
class Measurement:
    """One number, as it was measured in one process."""

    arm: str
    round: int
    """Counted from 1."""
    measure: Measure
    size: int | None
    """Tokens read, or tokens of context before the first written one; None where there is no such thing."""
    value: float


@dataclass(frozen=True)
class Failure:
    """Why an arm has no numbers, or none any more."""

    arm: str
    round: int
    """The round in which it failed; 0 if it was refused before the first."""
    message: str


@dataclass(frozen=True)
class Summary:
    """All measurements of one kind."""

    arm: str
    measure: Measure
    size: int | None
    count: int
    median: float
    min: float
    max: float
    bandwidth_share: float | None
    """Of decoding: the bytes that a token reads, without those left unread, times tokens per second, over the bandwidth
    measured beside it."""
    ours_times_better: float | None
    """Of a peer: how many times faster, or smaller, llmcli is, median over median."""


@dataclass(frozen=True)
class ModelFacts:
    """The model that was run, and what one token reads of it."""

    name: str
    path: str
    format: str
    parameters: int
    context_length: int
    stored_bytes: int
    """Of all weights, in the files."""
    weight_bytes_per_token: int
    """As stored, or as kept where that was chosen: every matrix a token is multiplied with, of experts the chosen ones;
    one row of an embedding that is not also the head counts as nothing."""
    bytes_per_token: Mapping[int, int]
    """For each context measured: those weights, and keys and values in 16 bits half-way through the reply."""
    random_weights: bool = False
    """It has the sizes of the model it is named after, but none of its weights."""


@dataclass(frozen=True)
class MachineInfo:
    """Where it ran."""

    cpu: str
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    gpu: str | None
    system: str


@dataclass(frozen=True)
class BenchSettings:
    """How it was run."""

    device: str
    dtype: str
    threads: int
    rounds: int
    prefill: tuple[int, ...]
    contexts: tuple[int, ...]
    decoded_tokens: int
    quantize: str | None = None


@dataclass(frozen=True)
class BenchResult:
    """Everything there is to know about one run of the benchmark."""

    date: str
    """ISO 8601, UTC."""
    model: ModelFacts
    machine: MachineInfo
    versions: Mapping[str, str]
    settings: BenchSettings
    arms: Mapping[str, str]
    """Every arm, this program first, and how it computed: precision, path, settings of its own."""
    summaries: tuple[Summary, ...]
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    """What was left out, and why."""
    commit: str | None = None
    """Of this program, where it runs from a repository; "-dirty" is added if files differ from it."""

    def summary(self, arm: str, measure: Measure, size: int | None = None) -> Summary | None:
        """What the measurements of one kind came to, if there were any."""
        found = (one for one in self.summaries if (one.arm, one.measure, one.size) == (arm, measure, size))
        return next(found, None)


def summarize(
    measurements: Iterable[Measurement],
    bytes_per_token: Mapping[int, int],
    *,
    of_peers: Mapping[int, int] | None = None,
) -> tuple[Summary, ...]:
    """Medians, extremes, ratios and shares, in the order of `MEASURES` and of the first measurements of each arm.

    The bytes that a token reads are `of_peers` for all but this program, where that quantizes and they do not.
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
        return (read[size] - medians.get((arm, "decode_unread_bytes", size), 0)) * rate / bandwidth

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
    """The order of the arms in a round, counted from 1: there and back again (ABBA).

    What drifts slowly, heat or another program, then weighs on all of them alike over every two rounds.
    """
    return list(arms) if round_ % 2 else list(reversed(arms))
