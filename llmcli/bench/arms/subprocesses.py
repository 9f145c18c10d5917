"""Starting the processes that are measured, hearing what they say, and leaving none behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmcli.bench.arms.protocol import ArmError
from llmcli.bench.plan import BenchPlan

CAN_DROP = hasattr(os, "posix_fadvise")
"""Whether this system can be asked to forget what it holds of a file."""
ARM = (sys.executable, "-m", "llmcli.bench.arms.worker")


@dataclass(frozen=True)
class Times:
    """Of a process, in seconds since it was asked for."""

    first_output_s: float | None
    """None if it said nothing."""
    exit_s: float


def environment(threads: int) -> dict[str, str]:
    """The environment of everything measured: so many threads, no network, none of the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_")}
    # Whatever lies in the working folder is not what an arm wants to import, unless this program itself is there.
    if Path(__file__).parents[3] != Path.cwd():
        kept["PYTHONSAFEPATH"] = "1"
    # Nothing can lie below the null device, so no config.toml is found.
    return {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": os.devnull}


def timed(command: Sequence[str], env: Mapping[str, str], plan: BenchPlan | None = None) -> Times:
    """Run `command` to its end, and a plan, if there is one, with it.

    Raises:
        ArmError: it failed; with what it said about that.
    """
    started = time.perf_counter()
    with _started(command, env, plan) as (process, errors):
        output = _stdout(process)
        first = output.read(1)
        first_at = time.perf_counter()
        rest = output.read()
        code = process.wait()
        ended = time.perf_counter()
        if code:
            raise ArmError(_reason(code, errors, first + rest))
    return Times(first_at - started if first else None, ended - started)


def answers(plan: BenchPlan, env: Mapping[str, str]) -> Generator[dict[str, Any], None, None]:
    """What the process of an arm says while it follows its plan.

    Raises:
        ArmError: it failed; with what it said about that.
    """
    with _started(ARM, env, plan) as (process, errors):
        for line in _stdout(process):
            if not line.endswith(b"\n"):
                break  # cut short with the process
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise ArmError(str(answer["error"]))
            yield answer
        code = process.wait()
        if code:
            raise ArmError(_reason(code, errors, b""))


def drop_from_page_cache(files: Sequence[Path]) -> None:
    """Have the system forget what it holds of `files` in memory, so that they are read from the disk again.

    Possible where `CAN_DROP`. What another process has mapped stays.
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def _started(
    command: Sequence[str], env: Mapping[str, str], plan: BenchPlan | None
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    # Errors go to a file: a pipe that nobody reads would stop the process once it is full.
    with tempfile.TemporaryFile() as errors:
        stdin = subprocess.DEVNULL if plan is None else subprocess.PIPE
        process = subprocess.Popen(
            list(command), stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=dict(env), bufsize=0
        )
        try:
            if plan is not None and process.stdin is not None:
                _tell(process.stdin, plan)
            yield process, errors
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _tell(stdin: IO[bytes], plan: BenchPlan) -> None:
    """Write the plan and leave the pipe open: the arm ends when it is closed, however this process may end."""
    data = memoryview(f"{plan.to_json()}\n".encode())
    try:
        while data:
            data = data[stdin.write(data) :]
    except BrokenPipeError:
        return  # it has ended already, and the exit code says how


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _reason(code: int, errors: IO[bytes], output: bytes) -> str:
    """Why a process ended with `code`: its own words on either stream, else the code."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(output)["error"])
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"The process {how}" + (f": {lines[-1].strip()[:300]}" if lines else ".")
