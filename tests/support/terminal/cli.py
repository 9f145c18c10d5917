"""Run `llm` in tests: in this process if only streams and exit codes matter, in a forked one for signals and pipes.

Neither imports torch again.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from unittest import mock

from llmcli import cli
from llmcli.commands.shared.prompt_input import configure_encoding
from llmcli.views.terminal import terminal
from tests.support.forked import ForkedProcess

LLM = [sys.executable, "-m", "llmcli"]


@dataclass(frozen=True)
class Result:
    """Output and exit code of a run."""

    stdout: bytes
    stderr: bytes
    returncode: int


def llm(
    *arguments: object, stdin: bytes = b"", env: Mapping[str, str] | None = None, encoding: str = "utf-8"
) -> Result:
    """Run the program in this process, with pipes for streams; `encoding` is that of Python's output."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    terminate = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["llm", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
        mock.patch.dict(os.environ, env or {}),
    ):
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        finally:
            signal.signal(signal.SIGTERM, terminate)
            terminal.configure(None)
            configure_encoding(None)
    assert isinstance(code, int)
    return Result(_bytes(out), _bytes(err), code)


def start(*arguments: object) -> ForkedProcess:
    """Start the program in another process, with pipes for its output and nothing to read."""
    return ForkedProcess(arguments, os.environ)


def _bytes(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()
