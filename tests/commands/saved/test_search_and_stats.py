"""`llm chats search` finds messages of chats and runs, and `llm stats` counts their tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmcli.conversations.records import More, Question, ReplyRecord
from llmcli.conversations.store import ConversationFile, ConversationKind
from tests.support.terminal.cli import llm

TIME = "2026-01-02T03:04:05+00:00"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def save(kind: ConversationKind, question: str, reply: str, *, modified: int, model: str = "m") -> str:
    file, begin = ConversationFile.create("test", kind)
    file.append(Question(1, 0, question, TIME))
    file.append(ReplyRecord(2, 1, model, {}, TIME, 9))
    file.append(More(2, reply, (1, 2, 3)))
    file.close()
    os.utime(file.path, (modified, modified))
    return begin.id


def test_messages_are_found_in_chats_and_runs_the_latest_first(tmp_path: Path) -> None:
    old = save(ConversationKind.CHAT, "What is a cat?", "An animal.", modified=1)
    new = save(ConversationKind.RUN, "Name an animal.", "A \x1b[2mCAT, a cat.", modified=2)
    damaged = tmp_path / "llmcli" / "runs" / "20260101-000000-aaaa.jsonl"
    damaged.write_text("no json\n")
    found = llm("chats", "search", "cat")
    assert found.stdout.decode().splitlines() == [
        f"{new}  run   turn 1  assistant  A \x1b[2m**CAT**, a **cat**.",
        f"{old}  chat  turn 1  user       What is a **cat**?",
    ]
    assert damaged.name in found.stderr.decode()
    (one,) = json.loads(llm("chats", "search", "a cat?", "WHAT", "--json").stdout)
    assert one == {
        "id": old, "kind": "chat", "message": 1, "turn": 1, "role": "user", "time": TIME, "places": 2,
        "context": "What is a cat?", "marks": [[0, 4], [8, 14]],
    }  # fmt: skip
    shown = llm("--color", "chats", "search", "cat").stdout.decode()
    assert "\x1b[2mCAT" not in shown and "␛[2m" in shown and "**" not in shown
    # Its id is all that is needed to read on.
    assert "Name an animal." in llm("chats", "show", new).stdout.decode()


def test_nothing_found_is_said_and_an_empty_text_refused() -> None:
    nothing = llm("chats", "search", "cat")
    assert (nothing.returncode, nothing.stdout) == (0, b"") and b"No saved conversation" in nothing.stderr
    assert json.loads(llm("chats", "search", "cat", "--json").stdout) == []
    assert llm("chats", "search", " ").returncode == 2
    assert llm("chats", "search").returncode == 2


def test_tokens_are_counted_by_day_and_model() -> None:
    assert b"No reply has been saved" in llm("stats").stderr
    save(ConversationKind.CHAT, "Hi", "Hello", modified=1)
    save(ConversationKind.RUN, "Hi", "Hello", modified=2)
    save(ConversationKind.RUN, "Hi", "Hello", modified=2, model="another")
    table = [line.split() for line in llm("stats").stdout.decode().splitlines()]
    assert table[0] == ["DAY", "MODEL", "REPLIES", "PROMPT", "WRITTEN"]
    assert [row[1:] for row in table[1:]] == [
        ["m", "2", "18", "6"], ["another", "1", "9", "3"],
        ["m", "2", "18", "6"], ["another", "1", "9", "3"], ["all", "3", "27", "9"],
    ]  # fmt: skip
    value = json.loads(llm("stats", "--json").stdout)
    assert value["schema"] == "llmcli.stats/1"
    assert value["total"] == {"replies": 3, "prompt_tokens": 27, "generated_tokens": 9}
    assert [each["model"] for each in value["days"]] == ["m", "another"] == [each["model"] for each in value["models"]]


def test_the_log_of_a_server_is_counted_too(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    line = {"time": TIME, "model": "m", "replies": 1, "saved": False, "prompt_tokens": 4, "generated_tokens": 2}
    log.write_text(json.dumps(line) + "\n")
    save(ConversationKind.CHAT, "Hi", "Hello", modified=1)
    total = json.loads(llm("stats", "--log", log, "--json").stdout)["total"]
    assert total == {"replies": 2, "prompt_tokens": 13, "generated_tokens": 5}
    missing = llm("stats", "--log", tmp_path / "none")
    assert missing.returncode == 2 and b"No such file" in missing.stderr
