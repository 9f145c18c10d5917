"""Signals that arrive while C code runs."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from llmcli.kernels.cpu.signals import alarm

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no user-defined signal")


@pytest.fixture(autouse=True)
def handled() -> Iterator[list[int]]:
    """The signals that Python has handled."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGUSR1, before)


def wakeup() -> int:
    """The current wakeup file descriptor for signals."""
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(now)
    return now


def is_ready(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def send_signal() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_is_noticed_once_and_handled(handled: list[int]) -> None:
    for _ in range(2):
        with alarm() as descriptor:
            assert not is_ready(descriptor)
            send_signal()
            assert is_ready(descriptor)
    assert handled == [signal.SIGUSR1] * 2
    assert wakeup() == -1


def test_an_exception_of_the_handler_restores_the_descriptor() -> None:
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), alarm():
        send_signal()
    assert wakeup() == -1
    with alarm() as descriptor:
        assert not is_ready(descriptor)


def test_signals_are_passed_on_to_an_event_loop() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    try:
        with alarm():
            assert not is_ready(read)
            send_signal()
        assert os.read(read, 10) == bytes([signal.SIGUSR1])
        assert wakeup() == write
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)


def test_other_threads_get_no_descriptor() -> None:
    seen: list[int] = []

    def elsewhere() -> None:
        with alarm() as descriptor:
            seen.append(descriptor)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [-1]
