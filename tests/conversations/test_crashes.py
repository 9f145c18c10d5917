"""Processes that are killed while writing, and concurrent writers: only unfinished lines are lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.store import conversation_files, read_conversation
from llmcli.conversations.tree import Tree

pytestmark = pytest.mark.slow

KILLS = 50
TOGETHER = 20

# Prints the exchanges that it has saved; continues the conversation it is given, if any.
WRITER = """
import sys
from pathlib import Path
from llmcli.conversations.records import SettingsRecord
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.engine.sampling.params import SamplingParams

name, count, *path = sys.argv[1:]
live = LiveConversation.resume(Path(path[0]))[0] if path else LiveConversation()
live.record_settings(SettingsRecord("m", None))
for number in range(int(count)):
    recorder = live.answer(live.ask(f"{name}-{number}"), "m", SamplingParams(temperature=0))
    for char in "reply" * 20:
        recorder.add(char, (ord(char),))
        recorder._write(durable=False)
    recorder.end("stop")
    print(f"{name}-{number}", flush=True)
"""


@pytest.fixture(autouse=True)
def _data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def writer(name: str, count: int, *path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(count), *map(str, path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(tree: Tree) -> set[str]:
    """The questions that have a complete reply."""
    replies = {node.after for node in tree.nodes.values() if node.is_reply and node.reason == "stop"}
    return {node.text for node in tree.nodes.values() if node.n in replies}


def test_a_kill_while_saving_loses_at_most_the_last_turn() -> None:
    live = LiveConversation()
    live.ask("first")
    path = live.path
    assert path is not None
    live.close()
    chance = random.Random(9)
    saved: set[str] = set()
    for number in range(KILLS):
        with writer(f"run{number}", 1_000_000, path) as process:
            assert process.stdout is not None
            # Each process has saved at least one exchange before it is killed.
            said = process.stdout.readline()
            time.sleep(chance.random() * 0.01)
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read()
        saved.update(said.decode().split("\n")[:-1])
        tree, _ = read_conversation(path)
        assert saved <= finished(tree)
    assert len(saved) >= KILLS
    # Only the conversation's file exists, and it can be continued.
    assert list(path.parent.iterdir()) == [path]
    again, note = LiveConversation.resume(path)
    again.ask("last")
    again.close()
    assert note is None or "incomplete" in note


def test_concurrent_processes_lose_no_conversation() -> None:
    processes = [writer(f"chat{number}", 10) for number in range(TOGETHER)]
    said = []
    for process in processes:
        with process:
            stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, b"")
        said.append(set(stdout.decode().split()))
    found = [finished(read_conversation(path)[0]) for path in conversation_files()]
    assert sorted(map(sorted, found)) == sorted(map(sorted, said))
    assert [len(each) for each in found] == [10] * TOGETHER
