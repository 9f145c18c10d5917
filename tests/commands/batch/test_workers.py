"""`llm batch --workers`: the output of one process, also when a worker is killed or the command is interrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from unittest import mock

import pytest

from llmcli.checkpoint import memory_estimate
from tests.support.forked import ForkedProcess
from tests.support.models.puppet import loop, write_puppet
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.terminal.cli import llm, start

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers by Linux's /proc")


def write(path: Path, tasks: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    return path


def children(pid: int | None) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_results(process: ForkedProcess, out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (out.exists() and out.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and prompts of which the first have short replies and the others long ones."""
    folder = write_puppet(tmp_path / "m", loop(b"abc"), context=100_000)
    tasks = [{"prompt": f"{n}", "max_tokens": 2 if n < 6 else 400 + n} for n in range(24)]
    return folder, write(tmp_path / "in.jsonl", list(tasks))


@pytest.mark.slow
def test_output_equals_that_of_one_process(tmp_path: Path) -> None:
    folder = shared_checkpoint("llama")
    tasks: list[object] = [
        {"prompt": f"{n} and more", "id": n, "seed": n, "temperature": 1.2 * (n % 2), "max_tokens": 3 + n % 7}
        for n in range(30)
    ]
    tasks[4:4] = [{"promt": "x"}, {"prompt": "long " * 500}, [1]]
    file = write(tmp_path / "in.jsonl", tasks)
    one = llm("batch", file, "-m", folder)
    two = llm("batch", file, "-m", folder, "--workers", 2, "--parallel", 3, "--stats")
    assert (one.returncode, two.returncode) == (1, 1)
    assert one.stdout == two.stdout and one.stdout.count(b'"error"') == 3
    assert b"30 replies" in two.stderr and b"2 processes, " in two.stderr


@pytest.mark.slow
def test_a_killed_worker_is_replaced(slow: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = slow
    out = tmp_path / "out.jsonl"
    process = start("batch", file, "-m", folder, "--out", out, "--seed", 1, "--workers", 2)
    wait_for_results(process, out, 3)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and b"A worker was killed by signal 9. Its lines are given to another." in err
    assert out.read_bytes() == llm("batch", file, "-m", folder, "--seed", 1).stdout
    assert gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_batch_ends_all_workers_and_is_resumed(
    slow: tuple[Path, Path], tmp_path: Path, blow: signal.Signals, code: int
) -> None:
    folder, file = slow
    out = tmp_path / "out.jsonl"
    flags = ["batch", file, "-m", folder, "--out", out, "--seed", 1]
    process = start(*flags, "--workers", 2)
    wait_for_results(process, out, 3)
    workers = children(process.pid)
    process.send_signal(blow)
    process.communicate(timeout=20)
    assert process.returncode == code
    deadline = time.monotonic() + 20
    while not gone(workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 3 <= out.read_bytes().count(b"\n") < 24
    # The number of workers is no setting of the results.
    assert llm(*flags).returncode == 0
    assert out.read_bytes() == llm("batch", file, "-m", folder, "--seed", 1).stdout


def test_workers_whose_models_do_not_fit_are_refused_before_they_start(tmp_path: Path) -> None:
    folder = shared_checkpoint("llama")
    file = write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    with mock.patch.object(memory_estimate, "memory", lambda device: (1 << 30, 20 << 20)):
        result = llm("batch", file, "-m", folder, "--workers", 1000)
    assert result.returncode == 5 and not result.stdout
    assert b"does not fit 1000 times: each process takes " in result.stderr and b" fit.\n" in result.stderr


def test_workers_take_no_server(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    result = llm("batch", file, "--workers", 2, "--server", "http://127.0.0.1:9")
    assert result.returncode == 2 and b"Each worker loads the model" in result.stderr
