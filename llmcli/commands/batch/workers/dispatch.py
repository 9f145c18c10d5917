"""Gives lines to workers in blocks, puts their results in order, and replaces workers that end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from llmcli.commands.batch.answers import BatchResult, Report
from llmcli.commands.batch.input import Line, name_of
from llmcli.commands.batch.workers.messages import (
    Answered,
    Begun,
    Events,
    Message,
    ModelReady,
    Note,
    Transport,
    Worker,
    WorkerEnded,
    WorkerFailed,
)
from llmcli.engine.batch.results import BatchReply, BatchStats
from llmcli.errors import LlmcliError

if TYPE_CHECKING:
    from llmcli.engine import Interruption

_MOST_LINES_IN_A_BLOCK = 64
# How many lines of each worker may be complete and wait for an earlier one.
_AHEAD = 1024
# Workers that may end one after another without a result or a line that can be blamed.
_MOST_ENDS = 3
_POLL_S = 0.1


@dataclass
class _Member:
    """A worker, with the lines that it has and that have no result."""

    worker: Worker
    place: int
    parallel: int = 0
    """How many lines it answers at a time; 0 until its model is loaded."""
    given: dict[int, Line] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    error: LlmcliError | None = None
    """The error that ended it, if it could send one."""
    memory: int = 0


class Dispatcher:
    """Answers lines with the workers of a transport.

    A worker that ends is replaced, and its lines are given to others. Those that it had begun are then given alone: a
    line that ends a second worker has an error for a result.
    """

    def __init__(self, transport: Transport, lines: Sequence[Line], note: Callable[[str], None]) -> None:
        """`note` is called once with each different note."""
        self._transport, self._note = transport, note
        self._events: Events = SimpleQueue()
        self._members: dict[int, _Member] = {}
        self._started = self._ends = 0
        self._waiting = deque(lines)
        self._next = lines[0].index if lines else 0
        self._end = self._next + len(lines)
        # Lines that a worker had begun when it ended.
        self._alone: deque[Line] = deque()
        self._blamed: Counter[int] = Counter()
        self._done: dict[int, BatchResult] = {}
        self._complete = self._next
        self._noted: set[str] = set()
        self._files: str | None = None
        self._memory: dict[int, int] = {}
        self.stats = BatchStats(transport.where)

    def run(self, interruption: Interruption, report: Report) -> Iterator[BatchResult]:
        """The result of each line, in order, until a request of `interruption`.

        Raises:
            LlmcliError: a worker cannot load the model, or workers end one after another without a result.
        """
        try:
            for place in range(min(self._transport.count, self._end - self._next)):
                self._start(place)
            while self._next < self._end:
                event = self._event(interruption)
                if event is None:
                    return
                self._take(*event)
                self._distribute()
                report(self._complete)
                while self._next in self._done:
                    yield self._done.pop(self._next)
                    self._next += 1
        finally:
            for member in self._members.values():
                member.worker.end()
            self._transport.close()

    def _start(self, place: int) -> None:
        number, self._started = self._started, self._started + 1
        self._members[number] = _Member(self._transport.start(number, place, self._events), place)

    def _event(self, interruption: Interruption) -> tuple[int, Message] | None:
        """The next message; None if the batch is interrupted first."""
        with suppress(KeyboardInterrupt):
            while not interruption.requested:
                with interruption.computing(), suppress(Empty):
                    return self._events.get(timeout=_POLL_S)
        return None

    def _take(self, number: int, message: Message) -> None:
        member = self._members[number]
        match message:
            case ModelReady():
                self._check_files(message.files)
                member.parallel = message.parallel
                self.stats.path = f"{self._transport.count} {self._transport.where}, {message.path}"
            case Begun(index):
                member.begun.add(index)
            case Answered(result, memory):
                self._ends = 0
                del member.given[result.index]
                member.begun.discard(result.index)
                member.memory = max(member.memory, memory)
                self._finish(result)
            case Note(text):
                self._say(text)
            case WorkerFailed(error):
                if not member.parallel:
                    raise error
                member.error = error
            case WorkerEnded(how):
                del self._members[number]
                self._replace(member, how)

    def _finish(self, result: BatchResult) -> None:
        self._done[result.index] = result
        self._complete += 1
        self._memory.update({member.place: member.memory for member in self._members.values()})
        self.stats.peak_memory_bytes = sum(self._memory.values())
        if isinstance(result.outcome, BatchReply):
            self.stats.replies += 1
            self.stats.prompt_tokens += result.outcome.prompt_tokens
            self.stats.generated_tokens += result.outcome.generated_tokens

    def _replace(self, member: _Member, how: str) -> None:
        """Start another worker for one that has ended; give its lines to others, or blame a line that it had alone."""
        begun = [line for index, line in member.given.items() if index in member.begun]
        self._ends += not begun
        why = how if member.error is None else f"ended: {member.error}".removesuffix(".")
        if self._ends >= _MOST_ENDS:
            raise LlmcliError(f"A worker {why}, as others did before; the batch stops here.")
        self._say(f"A worker {why}. Its lines are given to another.")
        for line in begun:
            self._blamed[line.index] += 1
            if self._blamed[line.index] > 1:
                error = LlmcliError(f"The worker that answered this line {why}, as another did before.")
                self._finish(BatchResult(line.index, error, name_of(line), None))
            else:
                self._alone.append(line)
        rest = [line for index, line in member.given.items() if index not in member.begun]
        self._waiting.extendleft(reversed(rest))
        self._start(member.place)

    def _distribute(self) -> None:
        for member in self._members.values():
            while lines := self._block(member):
                member.given.update({line.index: line for line in lines})
                member.worker.give(lines)

    def _block(self, member: _Member) -> list[Line]:
        """The lines to give to a worker now; empty if it has enough.

        A block is a part of what is left, so that the workers finish at about the same time.
        """
        if not member.parallel:
            return []
        if self._alone and not member.given:
            return [self._alone.popleft()]
        if any(self._blamed[index] for index in member.given) or not self._waiting:
            return []
        workers = len(self._members)
        enough = min(member.parallel, -(-len(self._waiting) // workers))
        if len(member.given) - len(member.begun) >= enough:
            return []
        if self._waiting[0].index - self._next > _AHEAD * workers:
            return []
        size = min(_MOST_LINES_IN_A_BLOCK, -(-len(self._waiting) // (2 * workers)))
        return [self._waiting.popleft() for _ in range(size)]

    def _check_files(self, files: str) -> None:
        self._files = self._files or files
        if files != self._files:
            raise LlmcliError("The files of the model differ between the machines of the workers.")

    def _say(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)
