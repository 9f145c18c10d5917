"""The plan of a benchmark, as sent to an arm's process: which passes it measures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Numbers of tokens to measure."""

    prefill: tuple[int, ...]
    """Lengths of the prompts for measuring prefill, in tokens."""
    contexts: tuple[int, ...]
    """Lengths of the prompts for measuring decoding. 0 means one token, the shortest possible prompt."""
    tokens: int
    """Tokens to decode after each of them, not counting the first."""

    def within(self, context_length: int) -> tuple[Sizes, tuple[str, ...]]:
        """The sizes that fit into a model's context, and a sentence for each that does not."""
        prefill = tuple(size for size in self.prefill if size < context_length)
        contexts = tuple(size for size in self.contexts if max(size, 1) + self.tokens < context_length)
        left_out = [f"reading {size} tokens" for size in self.prefill if size not in prefill]
        left_out += [f"writing after {size} tokens" for size in self.contexts if size not in contexts]
        notes = tuple(f"Left out: {what}; the model's context holds {context_length}." for what in left_out)
        return Sizes(prefill, contexts, self.tokens), notes

    @property
    def longest(self) -> int:
        """The greatest number of tokens in the context, in any pass."""
        written = (max(size, 1) + self.tokens for size in self.contexts)
        return 1 + max((1, *self.prefill, *written))

    @property
    def passes(self) -> int:
        """An upper bound of the number of passes in one process."""
        return 3 + 2 * len(self.prefill) + 2 * len(self.contexts)


FULL = Sizes((128, 512, 2048), (0, 1024, 4096), 64)
QUICK = Sizes((128,), (0,), 16)
# A GPU is faster, so more tokens are measured, and its speed in an empty context is not representative.
DEVICE_FULL = Sizes((128, 512, 2048), (128, 1024, 8192), 256)


@dataclass(frozen=True)
class BenchPlan:
    """Everything that the process of one arm needs to know."""

    arm: str
    model: str
    """The path of a folder or a GGUF file."""
    device: str
    dtype: str
    """For this program; peers compute in their usual precision."""
    threads: int
    ids: tuple[int, ...]
    """The same text for every arm, encoded once. Each pass begins one token later, so that no arm can reuse its prefix
    cache."""
    sizes: Sizes
    quantize: str | None = None
    """For this program: "int8" or "int4"; None: as stored in the files."""
    kv_cache: str = "auto"
    """For this program: "auto" or "int8"."""
    tensor_parallel: int = 1
    """For this program: the processes that the model is split over."""
    shape: str | None = None
    """The name of a shape, for which each arm makes random weights; `model` is then empty."""
    start_only: bool = False
    """Generate one token and exit; the caller measures the time."""

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> BenchPlan:
        """Parse the result of `to_json`."""
        data: dict[str, Any] = json.loads(line)
        sizes = data.pop("sizes")
        return cls(
            **{**data, "ids": tuple(data["ids"])},
            sizes=Sizes(tuple(sizes["prefill"]), tuple(sizes["contexts"]), sizes["tokens"]),
        )


@dataclass(frozen=True)
class MeasuredPass:
    """One prompt and reply, and the measure that its time is for."""

    prompt: int
    """Tokens of the prompt."""
    tokens: int
    """Tokens to generate, including the first."""
    measure: str
    """"prefill", "decode", "default decode" or "warm-up". "memory" is not a pass: it reports the memory used so far.

    Decoding is greedy, except for "default decode", which samples with the program's default settings.
    """
    size: int | None = None


def passes(sizes: Sizes) -> Iterator[MeasuredPass]:
    """The passes in order: warm-ups first, and short contexts before those that need more memory."""
    yield MeasuredPass(1, min(8, sizes.tokens) + 1, "warm-up")
    for size in sizes.contexts:
        if size == 0:
            yield MeasuredPass(1, sizes.tokens + 1, "decode", 0)
    yield MeasuredPass(0, 0, "memory")
    for size in sizes.prefill:
        if size <= _WHOLE_CHUNK:
            yield MeasuredPass(size, 1, "warm-up")
    for size in sizes.prefill:
        yield MeasuredPass(size, 1, "prefill", size)
    for size in sizes.contexts:
        if size:
            yield MeasuredPass(size, sizes.tokens + 1, "decode", size)
    yield MeasuredPass(0, 0, "memory")
    # Last, because other settings may need more memory.
    for size in sizes.contexts:
        yield MeasuredPass(max(size, 1), sizes.tokens + 1, "default decode", size)


# Longer prompts are read in chunks of about this size, so one chunk is enough to warm up.
_WHOLE_CHUNK = 512

_SUBJECTS = ("The river", "A merchant", "The old bridge", "My neighbour", "The night train", "A grey cat", "The baker")
_DEEDS = ("reached the harbour", "was seen in the market", "stood beside the mill", "came back late", "kept its secret")


def benchmark_text(sentences: int) -> str:
    """Prose with this number of different sentences."""
    return " ".join(
        f"{_SUBJECTS[number % len(_SUBJECTS)]} {_DEEDS[number % len(_DEEDS)]} on day {number + 1}, "
        f"and {number * number + 7} people wrote it down."
        for number in range(sentences)
    )


def is_enough(ids: Sequence[int], sizes: Sizes) -> bool:
    """Whether `ids` suffice for every pass, each of which begins one token later."""
    return len(ids) >= sizes.longest + sizes.passes
