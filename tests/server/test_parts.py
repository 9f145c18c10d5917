"""A computation in parts waits for its client, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

import llmcli
from llmcli.server.scheduler.work import Deliver, Piece, Result
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving


@pytest.fixture
def server() -> Iterator[TestServer]:
    with serving(llmcli.load(shared_checkpoint("llama"))) as running:
        yield running


def counting(done: list[int], count: int) -> Callable[[Deliver], Iterator[object]]:
    """Parts that deliver a piece each, and say in `done` that they were computed."""

    def parts(deliver: Deliver) -> Iterator[object]:
        for number in range(count):
            done.append(number)
            deliver([Piece(number, b"")])
            yield None

    return parts


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 seconds")


def test_parts_wait_for_a_client_while_others_are_answered(server: TestServer) -> None:
    done: list[int] = []

    async def client() -> list[object]:
        _, channel = server.server.service.start_parts(counting(done, 50), most_waiting=3)
        await until(lambda: len(done) == 3)
        body = {"prompt": "Hi", "max_tokens": 3}
        answer = await asyncio.to_thread(lambda: server.post("/v1/completions", **body))
        assert answer.status == 200 and len(done) == 3
        taken: list[object] = []
        async for event in channel.events():
            if isinstance(event, Piece):
                taken.append(event.value)
                # The piece in hand counts as not taken.
                assert len(done) <= len(taken) + 2
            else:
                assert isinstance(event, Result)
        return taken

    assert asyncio.run(client()) == list(range(50)) == done


def test_a_client_that_is_gone_ends_what_waits(server: TestServer) -> None:
    done: list[int] = []

    async def client() -> None:
        work, _ = server.server.service.start_parts(counting(done, 50), most_waiting=3)
        await until(lambda: len(done) == 3)
        scheduler = server.server.scheduler
        assert scheduler is not None and scheduler.load()["running"] == 1
        work.cancel()
        await until(lambda: scheduler.load()["running"] == 0)

    asyncio.run(client())
    assert len(done) == 3


def test_a_server_that_is_stopped_computes_the_rest_for_a_slow_client(server: TestServer) -> None:
    done: list[int] = []

    async def client() -> list[object]:
        _, channel = server.server.service.start_parts(counting(done, 20), most_waiting=3)
        await until(lambda: len(done) == 3)
        server.server.stop()
        await asyncio.sleep(0.1)
        return [event async for event in channel.events()]

    assert asyncio.run(client()) == [*(Piece(number, b"") for number in range(20)), Result(None)]
