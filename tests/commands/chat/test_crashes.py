"""Several `llm chat` on one store, each killed during a reply: questions are saved, and the chats can be resumed."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest

from llmcli.conversations.store import conversation_files, read_conversation
from tests.support.faults.run import PATIENCE_S, environment
from tests.support.forked import ForkedProcess
from tests.support.models.puppet import chain, loop, write_puppet

pytestmark = pytest.mark.slow

CHATS = 3


def test_killed_concurrent_chats_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", env["XDG_DATA_HOME"])
    endless = write_puppet(tmp_path / "endless", loop(b"abc\n"), context=1_000_000)
    brief = write_puppet(tmp_path / "brief", chain(b"done."), context=1_000_000)

    def chat(message: str, *arguments: object) -> ForkedProcess:
        with tempfile.TemporaryFile() as stdin:
            stdin.write(message.encode())
            stdin.seek(0)
            return ForkedProcess(["chat", "-t", 0, *arguments], env, stdin=stdin.fileno())

    questions = [f"question {number}" for number in range(CHATS)]
    for child in [chat(question, "-m", endless) for question in questions]:
        with child:
            assert child.stdout.read(4) == b"abc\n"
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
    # No files are left besides the conversations.
    assert sorted(path.parent.iterdir()) == sorted(paths)
