"""What an arm is to do, as it is told to the process that does it, and what that process answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """How much is read and written."""

    prefill: tuple[int, ...]
    """Lengths of prompts to read, in tokens."""
    contexts: tuple[int, ...]
    """Tokens already read when writing begins. 0 means a prompt of one token: without any, nothing can be written."""
    tokens: int
    """Tokens to write at each of them, after the first."""

    def within(self, context_length: int) -> tuple[Sizes, tuple[str, ...]]:
        """What of it fits into a model's context, and a sentence for each size that does not."""
        prefill = tuple(size for size in self.prefill if size < context_length)
        contexts = tuple(size for size in self.contexts if max(size, 1) + self.tokens < context_length)
        left_out = [f"reading {size} tokens" for size in self.prefill if size not in prefill]
        left_out += [f"writing after {size} tokens" for size in self.contexts if size not in contexts]
        notes = tuple(f"Left out: {what}; the model's context holds {context_length}." for what in left_out)
        return Sizes(prefill, contexts, self.tokens), notes

    @property
    def longest(self) -> int:
        """The most tokens that are ever in the context."""
        written = (max(size, 1) + self.tokens for size in self.contexts)
        return 1 + max((1, *self.prefill, *written))

    @property
    def passes(self) -> int:
        """No more passes than that are made by one process."""
        return 3 + 2 * len(self.prefill) + 2 * len(self.contexts)


FULL = Sizes((128, 512, 2048), (0, 1024, 4096), 64)
QUICK = Sizes((128,), (0,), 16)
# A GPU is sooner done, and what it does at the beginning of a text is no measure of what it does along it.
DEVICE_FULL = Sizes((128, 512, 2048), (128, 1024, 8192), 256)


@dataclass(frozen=True)
class BenchPlan:
    """All that the process of one arm must know."""

    arm: str
    model: str
    """The path of a folder or a GGUF file."""
    device: str
    dtype: str
    """For this program; peers compute in the precision they are known for."""
    threads: int
    ids: tuple[int, ...]
    """The same text for every arm, encoded once. Each pass begins one token further on, so that no arm can make use
    of what it has read before."""
    sizes: Sizes
    quantize: str | None = None
    """For this program: "int8", "int4", or as the files have it."""
    shape: str | None = None
    """The name of a shape, whose weights each arm makes at random; the model is then of no path."""
    start_only: bool = False
    """Say one token and exit, which is timed from outside."""

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> BenchPlan:
        """The plan that `to_json` wrote down."""
        data: dict[str, Any] = json.loads(line)
        sizes = data.pop("sizes")
        return cls(
            **{**data, "ids": tuple(data["ids"])},
            sizes=Sizes(tuple(sizes["prefill"]), tuple(sizes["contexts"]), sizes["tokens"]),
        )


@dataclass(frozen=True)
class MeasuredPass:
    """One prompt and its reply, and what becomes of the time they take."""

    prompt: int
    """Tokens to read."""
    tokens: int
    """Tokens to write, the first included."""
    measure: str
    """"prefill", "decode", "default decode", or "warm-up"; "memory" is no pass but a look at the memory used so far.

    Tokens are the most probable ones, but for "default decode": those are chosen by the program's default settings.
    """
    size: int | None = None


def passes(sizes: Sizes) -> Iterator[MeasuredPass]:
    """In which order things are done: warm-ups first, short replies before whatever takes more memory."""
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
    # Last: other settings may need memory of their own.
    for size in sizes.contexts:
        yield MeasuredPass(max(size, 1), sizes.tokens + 1, "default decode", size)


# Longer prompts are read in chunks of about this size; who has read one has met all there is to meet.
_WHOLE_CHUNK = 512

_SUBJECTS = ("The river", "A merchant", "The old bridge", "My neighbour", "The night train", "A grey cat", "The baker")
_DEEDS = ("reached the harbour", "was seen in the market", "stood beside the mill", "came back late", "kept its secret")


def benchmark_text(sentences: int) -> str:
    """Plain prose of so many sentences, none of which is like another."""
    return " ".join(
        f"{_SUBJECTS[number % len(_SUBJECTS)]} {_DEEDS[number % len(_DEEDS)]} on day {number + 1}, "
        f"and {number * number + 7} people wrote it down."
        for number in range(sentences)
    )


def enough(ids: Sequence[int], sizes: Sizes) -> bool:
    """Whether there are ids for every pass, each beginning one further on."""
    return len(ids) >= sizes.longest + sizes.passes
