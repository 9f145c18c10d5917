"""The program of a worker's process: `python -m llmcli.commands.batch.workers.process CPU...`.

The job and then lines come through stdin, messages go out through stdout, both pickled: the other end of these pipes
is the command that started it. It ends with that command, which closes stdin.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import IO, NoReturn

from llmcli.commands.batch.input import Line
from llmcli.commands.batch.workers.messages import Message
from llmcli.commands.batch.workers.work import work
from llmcli.library_output import silence_libraries


def main() -> NoReturn:
    """Answer lines until the command ends."""
    # The command decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cpus := [int(cpu) for cpu in sys.argv[1:]]:
        os.sched_setaffinity(0, cpus)
    silence_libraries()
    out = os.fdopen(os.dup(1), "wb")
    # What a library prints must not get between the messages.
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            pickle.dump(message, out)
            out.flush()

    source: IO[bytes] = sys.stdin.buffer
    job = pickle.load(source)
    inbox: SimpleQueue[Sequence[Line]] = SimpleQueue()
    threading.Thread(target=_read, args=(source, inbox), daemon=True, name="lines").start()
    try:
        work(job, inbox, send)
    finally:
        sys.stderr.flush()
        os._exit(1)


def _read(source: IO[bytes], inbox: SimpleQueue[Sequence[Line]]) -> None:
    """Put lines into the inbox until the command has ended, then end this process."""
    try:
        while True:
            inbox.put(pickle.load(source))
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
