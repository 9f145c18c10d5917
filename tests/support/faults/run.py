"""Run the real command in a separate process, and check what must hold for every fault."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from tests.support.forked import ForkedProcess

PATIENCE_S = 60.0
"""A hang guard, not a measurement: far more than anything here takes on a busy machine."""
MEMORY_MIB = 1024
"""Limit of a process's private memory (without code and mapped files): several times what a tiny model takes."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a user without settings whose data are below `home`; compiled kernels are shared."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMCLI_", "XDG_", "HF_"))}
    folders = {name: str(home / name) for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME")}
    cache = str(Path(user_cache_dir("llmcli", appauthor=False)).parent)
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": cache, **folders, **(extra or {})}


def command(arguments: Sequence[object], *, limits: str = "", redirect: str = "") -> list[str]:
    """The command line of `llm` under a shell's limits (options of `ulimit`) and redirections."""
    further = f"ulimit {limits}; " if limits else ""
    shell = f'ulimit -d {MEMORY_MIB << 10}; {further}exec "$@" {redirect}'
    return ["sh", "-c", shell, "sh", sys.executable, "-m", "llmcli", *map(str, arguments)]


def run(
    arguments: Sequence[object],
    home: Path,
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    limits: str = "",
    redirect: str = "",
) -> Outcome:
    """Run `llm` to its end with pipes for streams."""
    started = time.monotonic()
    result = subprocess.run(
        command(arguments, limits=limits, redirect=redirect),
        input=stdin,
        env=environment(home, env),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    # A process ended by a signal gets the exit code that its shell would report.
    code = result.returncode if result.returncode >= 0 else 128 - result.returncode
    return Outcome(code, result.stdout, result.stderr.decode("utf-8"), time.monotonic() - started)


def run_forked(
    arguments: Sequence[object],
    home: Path,
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> Outcome:
    """`run` in a process that is forked from one with torch imported, which takes a tenth of the time.

    `stdout` is a descriptor in place of the pipe. How the program starts, and what a shell does, is for `run` to test.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        variables = environment(home, env)
        child = ForkedProcess(arguments, variables, stdin=file.fileno(), stdout=stdout, prepare=_limit_memory)
        out, err = child.communicate(PATIENCE_S)
    code = child.wait()
    return Outcome(code if code >= 0 else 128 - code, out, err.decode("utf-8"), time.monotonic() - started)


def _limit_memory() -> None:
    """Like `ulimit -d` for a new process: memory allocated so far does not count."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    limit = (held + (MEMORY_MIB << 10)) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def fingerprint(path: Path) -> dict[str, tuple[int, int, str]]:
    """Kind, time of change and content of everything below `path`."""
    found = {}
    for each in sorted([path, *path.rglob("*")]):
        status = each.lstat()
        content = hashlib.sha256(each.read_bytes()).hexdigest() if each.is_file() and not each.is_symlink() else ""
        found[str(each)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def check(outcome: Outcome, code: int, says: Sequence[str], *, stdout: bytes | None = b"") -> None:
    """Check what holds for every fault: the exit code, a sentence that names the fault, and no other effect."""
    assert outcome.code == code, outcome
    for fragment in says:
        assert fragment in outcome.stderr, outcome.stderr
    if stdout is not None:
        assert outcome.stdout == stdout
    assert "Traceback" not in outcome.stderr
    assert "panicked at" not in outcome.stderr
    assert "bug in llmcli" not in outcome.stderr
    # No terminal control characters, whatever a file is called or contains.
    assert not [char for char in outcome.stderr if not (char == "\n" or char.isprintable())], ascii(outcome.stderr)
    assert len(outcome.stderr) < 2000
    if code not in (0, 130, 141, 143):
        assert any(line.startswith(("llm: ", "Error: ", "│")) for line in outcome.stderr.splitlines()), outcome
