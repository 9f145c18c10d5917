"""Lines in blocks, results in order, and workers that end, with workers that are only queues."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest

from llmcli.commands.batch.answers import BatchResult
from llmcli.commands.batch.input import Line
from llmcli.commands.batch.workers.dispatch import Dispatcher
from llmcli.commands.batch.workers.messages import (
    Answered,
    Begun,
    Events,
    Message,
    ModelReady,
    Note,
    WorkerEnded,
    WorkerFailed,
)
from llmcli.commands.batch.workers.processes import share
from llmcli.engine import Interruption
from llmcli.engine.batch.results import BatchReply
from llmcli.errors import CheckpointError, LlmcliError

READY = ModelReady(4, "a kernel", "files")


def reply(line: Line) -> BatchReply:
    return BatchReply(line.data.decode(), "", 2, 3, "length")


class FakeWorker:
    """Begins up to four lines, and answers them when it is asked for more; some lines end it when they are begun."""

    def __init__(self, transport: FakeTransport, number: int, events: Events) -> None:
        self.transport, self.number, self.events = transport, number, events
        self.lines: list[Line] = []
        self.alive = True

    def send(self, message: Message) -> None:
        self.events.put((self.number, message))

    def give(self, lines: Sequence[Line]) -> None:
        self.transport.blocks.append([line.index for line in lines])
        if not self.alive:
            return
        self.lines += lines
        while self.lines and self.alive:
            batch, self.lines = self.lines[:4], self.lines[4:]
            for line in batch:
                self.send(Begun(line.index))
                if self.transport.deadly(line.index):
                    self.alive = False
            if not self.alive:
                self.send(WorkerEnded("was killed by signal 9"))
                return
            for line in batch:
                self.send(Answered(BatchResult(line.index, reply(line), None, 1), 100))

    def end(self) -> None:
        self.transport.ended.append(self.number)


class FakeTransport:
    """Starts fake workers, which first send `begin`."""

    where = "fakes"

    def __init__(self, count: int, begin: Sequence[Message] = (READY,)) -> None:
        self.count, self.begin = count, begin
        self.blocks: list[list[int]] = []
        self.ended: list[int] = []
        self.places: list[int] = []
        self.deadly_lines: dict[int, int] = {}
        self.closed = False

    def deadly(self, index: int) -> bool:
        """Whether the line ends its worker this time."""
        left = self.deadly_lines.get(index, 0)
        self.deadly_lines[index] = left - 1
        return left > 0

    def start(self, number: int, place: int, events: Events) -> FakeWorker:
        self.places.append(place)
        worker = FakeWorker(self, number, events)
        for message in self.begin:
            worker.send(message)
        return worker

    def close(self) -> None:
        self.closed = True


def lines(count: int, first: int = 0) -> list[Line]:
    return [Line(index, json.dumps({"prompt": f"{index}", "id": index}).encode()) for index in range(first, count)]


def run(transport: FakeTransport, asked: Sequence[Line]) -> tuple[list[BatchResult], list[str], list[int]]:
    notes: list[str] = []
    reports: list[int] = []
    found = list(Dispatcher(transport, asked, notes.append).run(Interruption(), reports.append))
    assert transport.closed
    return found, notes, reports


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_line_is_given_once_and_results_are_in_order(count: int) -> None:
    transport = FakeTransport(count)
    found, notes, reports = run(transport, lines(300, first=7))
    assert [result.index for result in found] == list(range(7, 300)) and not notes
    assert sorted(index for block in transport.blocks for index in block) == list(range(7, 300))
    assert reports == sorted(reports) and reports[-1] == 300
    assert max(map(len, transport.blocks)) <= 64
    assert transport.ended == list(range(count)) and transport.places == list(range(count))


def test_no_more_workers_are_started_than_there_are_lines() -> None:
    transport = FakeTransport(5)
    assert len(run(transport, lines(2))[0]) == 2 and transport.places == [0, 1]


def test_a_line_that_ends_one_worker_is_answered_by_another() -> None:
    transport = FakeTransport(2)
    transport.deadly_lines = {5: 1, 33: 1}
    found, notes, _ = run(transport, lines(60))
    assert [str(result.outcome) for result in found] == [line.data.decode() for line in lines(60)]
    assert notes == ["A worker was killed by signal 9. Its lines are given to another."]
    assert len(transport.places) == 4


def test_a_line_that_ends_two_workers_fails_alone() -> None:
    transport = FakeTransport(3)
    # Also the first and the last, and neighbors.
    deadly = {0, 20, 21, 59}
    transport.deadly_lines = dict.fromkeys(deadly, 9)
    found, _, reports = run(transport, lines(60))
    assert [result.index for result in found] == list(range(60)) and reports[-1] == 60
    failed = {result.index: result for result in found if isinstance(result.outcome, LlmcliError)}
    assert set(failed) == deadly and failed[20].id == 20
    assert "was killed by signal 9, as another did before" in str(failed[20].outcome)
    assert [9 - transport.deadly_lines[index] for index in sorted(deadly)] == [2] * 4


@pytest.mark.parametrize("seed", range(5))
def test_workers_that_end_at_any_time_lose_no_line(seed: int) -> None:
    chance = random.Random(seed)
    transport = FakeTransport(3)
    transport.deadly_lines = {index: chance.choice([1, 1, 2]) for index in chance.sample(range(200), 30)}
    expected = {index for index, times in transport.deadly_lines.items() if times == 2}
    found, _, _ = run(transport, lines(200))
    assert [result.index for result in found] == list(range(200))
    failed = {result.index for result in found if isinstance(result.outcome, LlmcliError)}
    assert failed <= expected


def test_an_error_while_loading_ends_the_batch_with_it() -> None:
    transport = FakeTransport(
        2, [WorkerFailed(CheckpointError("The file ends too early.")), WorkerEnded("ended with exit code 1")]
    )
    with pytest.raises(CheckpointError, match="ends too early"):
        run(transport, lines(9))
    assert transport.ended == [0, 1]


def test_workers_that_end_without_a_line_stop_the_batch() -> None:
    transport = FakeTransport(2, [WorkerEnded("was killed by signal 11")])
    with pytest.raises(LlmcliError, match="A worker was killed by signal 11, as others did before"):
        run(transport, lines(9))
    assert len(transport.places) == 4


def test_notes_are_shown_once_and_other_files_are_refused() -> None:
    found, notes, _ = run(FakeTransport(3, [Note("As it is."), READY]), lines(9))
    assert len(found) == 9 and notes == ["As it is."]

    class Others(FakeTransport):
        def start(self, number: int, place: int, events: Events) -> FakeWorker:
            self.begin = [ModelReady(4, "a kernel", f"files {number}")]
            return super().start(number, place, events)

    with pytest.raises(LlmcliError, match="files of the model differ"):
        run(Others(2), lines(99))


def test_an_interrupted_batch_ends_its_workers() -> None:
    transport, interruption = FakeTransport(2, []), Interruption()
    interruption.request()
    assert list(Dispatcher(transport, lines(9), print).run(interruption, print)) == []
    assert transport.ended == [0, 1] and transport.closed


def test_stats_are_sums_over_all_workers() -> None:
    dispatcher = Dispatcher(FakeTransport(2), lines(300), print)
    assert len(list(dispatcher.run(Interruption(), lambda done: None))) == 300
    stats = dispatcher.stats
    assert (stats.replies, stats.prompt_tokens, stats.generated_tokens) == (300, 600, 900)
    assert (stats.path, stats.peak_memory_bytes) == ("2 fakes, a kernel", 200)


def test_workers_share_cores_threads_and_gpus() -> None:
    cores = [[0, 4], [1, 5], [2, 6], [3, 7]]
    two = [share(place, 2, cores, 4, 0) for place in range(2)]
    assert [(one.threads, one.cpus, one.device) for one in two] == [(2, (0, 4, 1, 5), None), (2, (2, 6, 3, 7), None)]
    # More workers than cores, and one that a container's quota leaves.
    assert share(5, 6, cores, 4, 1) == share(0, 6, cores, 1, 0) and share(5, 6, cores, 4, 1).threads == 1
    assert [share(place, 3, cores, 4, 2).device for place in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [cpu for place in range(3) for cpu in share(place, 3, cores, 4, 0).cpus] == [0, 4, 1, 5, 2, 6, 3, 7]
