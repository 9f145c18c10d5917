"""Start the processes to measure, read their output, and end them."""

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
from llmcli.startup.openmp import without_wait_policy

CAN_DROP = hasattr(os, "posix_fadvise")
"""Whether this system can drop a file from the page cache."""
ARM = (sys.executable, "-m", "llmcli.bench.arms.worker")


@dataclass(frozen=True)
class Times:
    """Times of a process, in seconds since it was started."""

    first_output_s: float | None
    """None if it printed nothing."""
    exit_s: float


def environment(threads: int) -> dict[str, str]:
    """The environment of all measured processes: a number of threads, no network, no settings of the user.

    Other programs let their threads wait as they do by default; `llm` sets how its own wait.
    """
    inherited = without_wait_policy(os.environ)
    kept = {name: value for name, value in inherited.items() if not name.startswith("LLMCLI_")}
    # An arm must not import files of the working folder, unless it is that of this program.
    if Path(__file__).parents[3] != Path.cwd():
        kept["PYTHONSAFEPATH"] = "1"
    # The null device contains no files, so no config.toml is found.
    return {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": os.devnull}


def timed(command: Sequence[str], env: Mapping[str, str], plan: BenchPlan | None = None) -> Times:
    """Run `command` to its end, with a plan on its standard input if one is given.

    Raises:
        ArmError: the process failed; the message has its error.
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
    """Run the process of an arm with its plan, and yield its answers.

    Raises:
        ArmError: the process failed; the message has its error.
    """
    with _started(ARM, env, plan) as (process, errors):
        for line in _stdout(process):
            if not line.endswith(b"\n"):
                break  # the process was killed while writing
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise ArmError(str(answer["error"]))
            yield answer
        code = process.wait()
        if code:
            raise ArmError(_reason(code, errors, b""))


def drop_from_page_cache(files: Sequence[Path]) -> None:
    """Drop `files` from the page cache, so that they are read from the disk again.

    Requires `CAN_DROP`. Pages that another process has mapped stay.
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
    # Errors go to a file: the process would block on a full pipe that is not read.
    with tempfile.TemporaryFile() as errors:
        stdin = subprocess.DEVNULL if plan is None else subprocess.PIPE
        process = subprocess.Popen(
            list(command), stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=dict(env), bufsize=0
        )
        try:
            if plan is not None and process.stdin is not None:
                _send(process.stdin, plan)
            yield process, errors
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _send(stdin: IO[bytes], plan: BenchPlan) -> None:
    """Write the plan and leave the pipe open: the arm ends when it is closed, even if this process is killed."""
    data = memoryview(f"{plan.to_json()}\n".encode())
    try:
        while data:
            data = data[stdin.write(data) :]
    except BrokenPipeError:
        return  # the process has ended already; its exit code gives the reason


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _reason(code: int, errors: IO[bytes], output: bytes) -> str:
    """Why a process ended with `code`: its message on stdout or stderr, else the code."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(output)["error"])
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"The process {how}" + (f": {lines[-1].strip()[:300]}" if lines else ".")
