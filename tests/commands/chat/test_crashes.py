"""Several `llm chat` on one store, each killed in the middle of a reply: what was asked is there, and it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.conversations.store import conversation_files, read_conversation
from tests.support.faults.run import PATIENCE_S, environment
from tests.support.models.puppet import chain, loop, write_puppet

pytestmark = pytest.mark.slow

CHATS = 3


def test_chats_at_once_that_are_killed_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", env["XDG_DATA_HOME"])
    endless = write_puppet(tmp_path / "endless", loop(b"abc\n"), context=1_000_000)
    brief = write_puppet(tmp_path / "brief", chain(b"done."), context=1_000_000)

    def chat(message: str, *arguments: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "llmcli", "chat", "-t", "0", *map(str, arguments)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Who has to wait for its end is not to say so much that reading it takes long.
            pipesize=4096,
        )
        assert child.stdin is not None
        child.stdin.write(message.encode())
        child.stdin.close()
        # Closed already: `communicate` must not flush it.
        child.stdin = None
        return child

    questions = [f"question {number}" for number in range(CHATS)]
    for child in [chat(question, "-m", endless) for question in questions]:
        with child:
            assert child.stdout is not None and child.stdout.read(4) == b"abc\n"
            child.send_signal(signal.SIGKILL)
    paths = conversation_files()
    asked = [next(iter(read_conversation(path)[0].nodes.values())).text for path in paths]
    assert sorted(asked) == questions

    for child in [chat("and then?", "-m", brief, "--resume", path.stem) for path in paths]:
        stdout, stderr = child.communicate(timeout=PATIENCE_S)
        assert (child.returncode, stdout) == (0, b"done.\n"), stderr
    for path, question in zip(paths, asked, strict=True):
        tree, note = read_conversation(path)
        first, *_, last = tree.nodes.values()
        assert (first.text, last.text, last.reason, note) == (question, "done.", "stop", None)
    # And nothing beside the conversations is left.
    assert sorted(path.parent.iterdir()) == sorted(paths)
