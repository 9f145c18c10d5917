"""What is sent to a worker, and what it sends back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from llmcli.commands.batch.answers import BatchInput, BatchResult
from llmcli.commands.batch.input import Line
from llmcli.errors import LlmcliError


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to load the model and to answer lines."""

    asked: BatchInput
    """Without its lines; the model is given by the path of its files."""
    parallel: int | None
    """How many lines each worker answers at a time; None: as many as its kernel can."""


@dataclass(frozen=True)
class ModelReady:
    """The model is loaded."""

    parallel: int
    path: str
    """The name of the implementation that computes, for display."""
    files: str
    """The fingerprint of the model's files."""


@dataclass(frozen=True)
class Begun:
    """The worker has begun to answer a line."""

    index: int


@dataclass(frozen=True)
class Answered:
    """The result of a line."""

    result: BatchResult
    peak_memory_bytes: int


@dataclass(frozen=True)
class Note:
    """A note for the user."""

    text: str


@dataclass(frozen=True)
class WorkerFailed:
    """An error that ends the worker."""

    error: LlmcliError


@dataclass(frozen=True)
class WorkerEnded:
    """The worker's process has ended; its last message, which its transport makes."""

    how: str
    """Such as "was killed by signal 9"."""


Message: TypeAlias = ModelReady | Begun | Answered | Note | WorkerFailed | WorkerEnded
Events: TypeAlias = "SimpleQueue[tuple[int, Message]]"
"""Messages of all workers, each with the worker's number."""


class Worker(Protocol):
    """A worker as the dispatcher sees it. Its messages arrive in the queue that its transport was given."""

    def give(self, lines: Sequence[Line]) -> None:
        """Send lines to it, which it answers after those that it has."""

    def end(self) -> None:
        """End it at once; its process is gone, or ending, when this returns."""


class Transport(Protocol):
    """Starts workers and carries messages."""

    count: int
    """How many workers there are at a time."""
    where: str
    """What they are, in the plural, for display."""

    def start(self, number: int, place: int, events: Events) -> Worker:
        """Start worker `number`, at one of `count` places, each with its share of the machine."""

    def close(self) -> None:
        """Release what the workers shared."""
