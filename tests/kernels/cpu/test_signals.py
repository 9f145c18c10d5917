"""Signals that come while C code runs."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from llmcli.kernels.cpu.signals import alarm

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no signal that means nothing")


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that Python answered."""
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: told.append(number))
    yield told
    signal.signal(signal.SIGUSR1, before)


def wakeup() -> int:
    """The file descriptor that signals are written to now."""
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(now)
    return now


def is_ready(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def ring() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_is_seen_once_and_answered(heard: list[int]) -> None:
    for _ in range(2):
        with alarm() as descriptor:
            assert not is_ready(descriptor)
            ring()
            assert is_ready(descriptor)
    assert heard == [signal.SIGUSR1] * 2
    assert wakeup() == -1


def test_what_the_answer_raises_leaves_nothing_behind() -> None:
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), alarm():
        ring()
    assert wakeup() == -1
    with alarm() as descriptor:
        assert not is_ready(descriptor)


def test_an_event_loop_hears_of_it_too() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    try:
        with alarm():
            assert not is_ready(read)
            ring()
        assert os.read(read, 10) == bytes([signal.SIGUSR1])
        assert wakeup() == write
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)


def test_other_threads_need_not_know() -> None:
    seen: list[int] = []

    def elsewhere() -> None:
        with alarm() as descriptor:
            seen.append(descriptor)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [-1]
