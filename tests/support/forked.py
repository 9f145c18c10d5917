"""Run `llm` in a process forked from one with torch and our modules imported: a tenth of the time.

Streams, environment, arguments, signals and terminal are as in a new process. The start of Python and the program is
not tested this way: some tests of each kind start real processes.
"""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import os
import pty
import selectors
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import IO, Any

import pexpect
from ptyprocess import PtyProcess

_PRELOADED = [
    "torch",
    "llmcli.api",
    "llmcli.cli",
    "llmcli.commands.generate.command",
    "llmcli.views.reply.writer",
    "llmcli.engine.guided.answer_form",
    "llmcli.engine.speculative.decoder",
    "prompt_toolkit.shortcuts",
    "rich.markdown",
    "rich.table",
    "tokenizers",
    "jinja2.sandbox",
    "typer.rich_utils",
]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(_PRELOADED)


class ForkedProcess:
    """`subprocess.Popen` for a forked `llm` with pipes for its output.

    `stdin` is a descriptor, by default of `/dev/null`, and so is `stdout`, by default a pipe. `prepare` is called in
    the process before the program.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        env: Mapping[str, str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        out, err, null = os.pipe(), os.pipe(), os.open(os.devnull, os.O_RDONLY)
        streams = (null if stdin is None else stdin, out[1] if stdout is None else stdout, err[1])
        self._process = _fork(arguments, env, streams, prepare=prepare)
        for each in (null, out[1], err[1]):
            os.close(each)
        self.pid = self._process.pid
        self.stdout: IO[bytes] = os.fdopen(out[0], "rb")
        self.stderr: IO[bytes] = os.fdopen(err[0], "rb")
        self.returncode: int | None = None

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, which must not have been waited for."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The result of `wait`; None while the process runs."""
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the number of the signal that ended it; after `timeout` seconds the test fails."""
        if self.returncode is None:
            self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"still running after {timeout} s"
        return code

    def communicate(self, timeout: float) -> tuple[bytes, bytes]:
        """The rest of its output; after `timeout` seconds the process is killed, and the test fails."""
        said: dict[IO[bytes], bytes] = {self.stdout: b"", self.stderr: b""}
        last = time.monotonic() + timeout
        with self, selectors.DefaultSelector() as selector:
            for stream in said:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, last - time.monotonic()))
                if not ready:
                    self.kill()
                assert ready, f"still running after {timeout} s"
                for key, _ in ready:
                    stream = key.fileobj  # type: ignore[assignment]
                    part = stream.read1(1 << 16)  # type: ignore[attr-defined]
                    said[stream] += part
                    if not part:
                        selector.unregister(stream)
        return said[self.stdout], said[self.stderr]


def on_terminal(
    arguments: Sequence[object],
    env: Mapping[str, str],
    *,
    size: tuple[int, int] = (24, 80),
    real: bool = False,
    **options: Any,
) -> pexpect.spawn:
    """`llm` at the other end of a pseudo-terminal of `size` rows and columns; `real`: started anew, not forked."""
    command = ["-m", "llmcli", *map(str, arguments)]
    kind = pexpect.spawn if real else _ForkedTerminal
    return kind(sys.executable, command, env=dict(env), dimensions=size, **options)


class _ForkedTerminal(pexpect.spawn):  # type: ignore[misc]
    """`pexpect.spawn` with a forked process."""

    def _spawnpty(
        self, args: Sequence[str | bytes], *, env: Mapping[str, str], dimensions: tuple[int, int], **_: object
    ) -> PtyProcess:
        """pexpect's hook: the terminal, and the process at its other end."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", *dimensions, 0, 0))
        # The interpreter, -m and the module come first; pexpect has encoded them.
        process = _fork([*map(os.fsdecode, args[3:])], env, (its, its, its), terminal=True)
        os.close(its)
        return _Pty(process, ours)


class _Pty(PtyProcess):  # type: ignore[misc]
    """A child process of the fork server, which reports its exit code."""

    def __init__(self, process: BaseProcess, terminal: int) -> None:
        super().__init__(process.pid, terminal)
        self.terminated = False
        self.exitstatus: int | None = None
        self.signalstatus: int | None = None
        self._process = process

    def isalive(self) -> bool:
        """Whether it runs; for one that has closed its terminal, the end is waited for."""
        if self.terminated:
            return False
        if self.flag_eof:
            self._process.join()
        code = self._process.exitcode
        if code is not None:
            self.terminated = True
            self.exitstatus, self.signalstatus = (code, None) if code >= 0 else (None, -code)
            self.status = code << 8 if code >= 0 else -code
        return code is None

    def wait(self) -> int | None:
        """Its exit code, once it has ended; None: a signal ended it."""
        self._process.join()
        self.isalive()
        return self.exitstatus


def _fork(
    arguments: Sequence[object],
    env: Mapping[str, str],
    streams: tuple[int, int, int],
    *,
    terminal: bool = False,
    prepare: Callable[[], None] | None = None,
) -> BaseProcess:
    """Start `llm` with these descriptors as streams; `terminal`: the first is its controlling terminal."""
    passed = [DupFd(each) for each in streams]
    asked = ([*map(str, arguments)], dict(env), passed, terminal, prepare)
    process = _SERVER.Process(target=_become_llm, args=asked, daemon=True)
    process.start()
    return process


def _become_llm(
    arguments: list[str],
    env: dict[str, str],
    streams: list[Any],
    terminal: bool,
    prepare: Callable[[], None] | None,
) -> None:
    """Run `llm` as the installed command does after Python has started, then end the process."""
    try:
        if terminal:
            os.setsid()
        descriptors = [each.detach() for each in streams]
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = map(_stream, range(3))
        os.environ.clear()
        os.environ.update(env)
        if prepare is not None:
            prepare()
        sys.argv = ["llm", *arguments]
        from llmcli import cli

        cli.run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _stream(number: int) -> io.TextIOWrapper:
    """A standard stream, opened as Python does at its start."""
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    if number == 0:
        return io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")
    errors = "backslashreplace" if number == 2 else "strict"
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=lines)
