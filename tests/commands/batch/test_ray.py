"""`llm batch --ray`: the output of one process, also when an actor is killed; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.commands.batch.workers.ray_actors import ActorShare, Cluster, actor_share, connect
from llmcli.errors import UsageError
from tests.support.models.puppet import loop, write_puppet
from tests.support.terminal.cli import LLM, llm

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


def descendants(pid: int) -> Iterator[int]:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from descendants(child)


def actors(pid: int) -> list[int]:
    return [one for one in descendants(pid) if b"BatchActor" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and prompts of which the first have short replies and the others long ones."""
    tasks = [{"prompt": f"{n}", "id": n, "max_tokens": 2 if n < 6 else 400 + n} for n in range(24)]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    return write_puppet(tmp_path / "m", loop(b"abc"), context=100_000), file


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_actor_is_replaced_and_an_interrupt_ends_all(
    slow: tuple[Path, Path], tmp_path: Path, blow: signal.Signals
) -> None:
    folder, file = slow
    out = tmp_path / "out.jsonl"
    flags = ["batch", file, "-m", folder, "--seed", 1]
    ray = ["--ray", "local", "--workers", 2, "--out", out]
    process = subprocess.Popen([*LLM, *map(str, [*flags, *ray])], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    started, found = list(descendants(process.pid)), actors(process.pid)
    assert len(found) == 2
    os.kill(found[0] if blow is signal.SIGKILL else process.pid, blow)
    _, err = process.communicate(timeout=120)
    if blow is signal.SIGKILL:
        assert process.returncode == 0 and b"Its lines are given to another." in err
    else:
        assert process.returncode == 130 and b"the same command continues from there" in err
        assert llm(*flags, "--out", out).returncode == 0
    assert out.read_bytes() == llm(*flags).stdout
    end = time.monotonic() + 20
    while any(Path(f"/proc/{one}").exists() for one in started):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_actors_take_their_share_of_a_cluster() -> None:
    here = Cluster(cpus=8, gpus=0, nodes=1, is_local=True)
    large = Cluster(cpus=64, gpus=8, nodes=2, is_local=False)
    assert actor_share(here, 4, None, None) == ActorShare(4, 2, 0)
    assert actor_share(here, None, None, None) == ActorShare(1, 8, 0)
    assert actor_share(large, None, None, None) == ActorShare(8, 8, 1)
    assert actor_share(large, None, 0.5, None) == ActorShare(16, 4, 0.5)
    assert actor_share(large, None, 0, None) == ActorShare(2, 32, 0)
    for count, gpus, threads, why in ((9, 1, None, "9 workers need 9 GPUs"), (4, 0, 20, "4 workers need 80 cores")):
        with pytest.raises(UsageError, match=f"{why}, and the Ray cluster has"):
            actor_share(large, count, gpus, threads)


def test_options_of_ray_are_checked(slow: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = slow
    result = llm("batch", file, "-m", folder, "--gpus-per-worker", 1)
    assert result.returncode == 2 and b"for each actor of --ray" in result.stderr
    for split in ("--tp", "--pp"):
        result = llm("batch", file, "-m", folder, "--ray", "local", split, 2)
        assert result.returncode == 2 and b"split over ranks" in result.stderr
    with pytest.raises(UsageError, match="needs host:port of a cluster"):
        connect("ray://other:10001", 2, 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray .* -m pip install 'llmcli\[ray\]'|needs Ray .* uv pip install"):
        connect("local", 2, 1)
