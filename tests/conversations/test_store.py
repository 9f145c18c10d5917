"""Conversations on disk: what was written can be read again, even if the program is killed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.conversations import store
from llmcli.conversations.export import as_json, as_markdown, import_json
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.records import SettingsRecord
from llmcli.conversations.store import conversation_files, find_conversation, read_conversation, remove_conversation
from llmcli.engine import SamplingParams
from llmcli.errors import LlmcliError, UsageError

PARAMS = SamplingParams(temperature=0, seed=3)


@pytest.fixture(autouse=True)
def _data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def exchange(live: LiveConversation, question: str, reply: str, reason: str | None = "stop") -> None:
    recorder = live.answer(live.ask(question), "m", PARAMS)
    for char in reply:
        recorder.add(char, (ord(char),))
    if reason is not None:
        recorder.end(reason)


def written() -> Path:
    live = LiveConversation()
    live.record_settings(SettingsRecord("m", "/models/m", "Be brief."))
    exchange(live, "One?\nOr two?", "yes ☃")
    exchange(live, "Two?", "no")
    return closed(live)


def closed(live: LiveConversation) -> Path:
    path = live.path
    assert path is not None
    live.close()
    return path


def test_a_saved_conversation_is_read_back_and_continued() -> None:
    path = written()
    assert path.stat().st_mode & 0o777 == 0o600
    live, note = LiveConversation.resume(path)
    assert note is None
    assert [(node.text, node.ids) for node in live.tree.path()[1:2]] == [("yes ☃", tuple(map(ord, "yes ☃")))]
    assert live.tree.settings == SettingsRecord("m", "/models/m", "Be brief.")
    node = live.tree.last_reply()
    assert node is not None
    assert node.sampling is not None
    # JSON turns tuples into lists.
    sampling = {name: tuple(value) if isinstance(value, list) else value for name, value in node.sampling.items()}
    assert SamplingParams(**sampling) == PARAMS  # type: ignore[arg-type]
    exchange(live, "Three?", "maybe")
    live.go_to(2)
    live.close()
    tree, _ = read_conversation(path)
    assert tree.head == 2
    assert [node.text for node in tree.path(6)] == ["One?\nOr two?", "yes ☃", "Two?", "no", "Three?", "maybe"]


@given(st.data())
def test_a_file_truncated_anywhere_keeps_its_whole_lines(data: st.DataObject) -> None:
    # Hypothesis runs the body many times in one data folder, so there are many conversations.
    path = written()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    length = data.draw(st.integers(first, len(whole)))
    path.write_bytes(whole[:length])
    complete = {len(whole[:length].rpartition(b"\n")[0]) + 1, length}
    live, note = LiveConversation.resume(path)
    exchange(live, "More?", "ok")
    live.close()
    tree, damage = read_conversation(path)
    assert damage is None
    assert path.read_bytes().startswith(whole[: min(complete)])
    assert tree.path()[-1].text == "ok"
    # The note is given exactly if something was lost.
    lost = whole[:length].rpartition(b"\n")[2]
    assert (note is not None) == (bool(lost) and lost + b"\n" not in whole.splitlines(keepends=True))


def test_a_reply_without_an_end_counts_as_cut_off() -> None:
    live = LiveConversation()
    exchange(live, "One?", "yes", reason=None)
    tree, _ = read_conversation(closed(live))
    node = tree.path()[-1]
    # The first token is written at once, the others twice a second.
    assert node.is_cut
    assert node.text == "y"
    assert "*(interrupted)*" in as_markdown(tree)


def test_a_reply_without_tokens_is_not_recorded() -> None:
    live = LiveConversation()
    live.answer(live.ask("One?"), "m", PARAMS).end("interrupted")
    path = closed(live)
    pending = read_conversation(path)[0].unanswered()
    assert pending is not None
    # The next message replaces it.
    live, _ = LiveConversation.resume(path)
    exchange(live, "Two?", "no")
    live.close()
    assert [node.text for node in live.tree.path()] == ["Two?", "no"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data.replace(b'"kind": "question"', b'"kind": "riddle"', 1), "line 3, is damaged"),
        (lambda data: data.replace(b'"n": 2', b'"n": 7', 1), "no reply 2"),
        (lambda data: data.partition(b"\n")[2], "line 1, is out of order"),
        (lambda data: data.replace(b'"version": 1', b'"version": 2'), "later version"),
        (lambda data: b"", "empty"),
        (lambda data: b"\xff" + data, "line 1, is damaged: not UTF-8\\.$"),
        (lambda data: data.replace(b"\n", b"\n\n", 1), "line 2, is damaged: not JSON\\.$"),
    ],
)
def test_a_damaged_file_is_refused(damage: object, told: str) -> None:
    path = written()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(LlmcliError, match=told):
        read_conversation(path)


@pytest.mark.parametrize("times", [1, 2])
def test_a_damaged_file_is_copied_aside_and_continued(times: int) -> None:
    path = written()
    sound = path.read_bytes()
    lines = sound.splitlines(keepends=True)
    for number in range(1, times + 1):
        damaged = b"".join([*lines[:3], b"\xff garbage\n", *lines[3:]])
        path.write_bytes(damaged)
        live, note = LiveConversation.resume(path)
        live.close()
        aside = path.with_name(f"{path.stem}.damaged-{number}")
        assert note is not None and "line 4, is damaged" in note and str(aside) in note
        assert aside.read_bytes() == damaged
        assert aside.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"".join(lines[:3])) and b"garbage" not in path.read_bytes()
        assert conversation_files() == [path]


@pytest.mark.parametrize(
    "first", [b"garbage\n", b'{"kind": "begin", "version": 9, "id": "a", "time": "", "program": "x"}\n']
)
def test_a_file_without_a_valid_first_line_is_not_changed(first: bytes) -> None:
    path = written()
    data = first + path.read_bytes().partition(b"\n")[2]
    path.write_bytes(data)
    with pytest.raises(LlmcliError, match=r"line 1, is damaged|later version"):
        LiveConversation.resume(path)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_is_not_listed() -> None:
    path = written()
    path.with_name("29990101-000000-aaaa.jsonl").touch()
    assert conversation_files() == [path]


def test_one_process_at_a_time_writes_to_a_file() -> None:
    path = written()
    live, _ = LiveConversation.resume(path)
    code = (
        "from pathlib import Path; from llmcli.conversations.live_conversation import LiveConversation; "
        f"LiveConversation.resume(Path({str(path)!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is open in another llm chat" in result.stderr
    with pytest.raises(LlmcliError, match="open in another"):
        remove_conversation(path)
    live.close()
    remove_conversation(path)
    assert conversation_files() == []


def test_conversations_of_the_same_second_get_separate_files(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter("aaaaaaaabbbb")
    monkeypatch.setattr("secrets.choice", lambda _: next(letters))
    monkeypatch.setattr(store, "now", lambda: "2026-01-02T03:04:05+00:00")
    first, second = written(), written()
    assert [first.stem, second.stem] == ["20260102-030405-aaaa", "20260102-030405-bbbb"]
    assert find_conversation("bbbb") == second
    assert find_conversation("20260102-030405-a") == first
    with pytest.raises(UsageError, match="2 conversations"):
        find_conversation("2026")
    for name in ("", "2027"):
        with pytest.raises(UsageError, match="no conversation"):
            find_conversation(name)


def test_empty_and_unsaved_conversations_leave_no_file() -> None:
    live = LiveConversation()
    live.record_settings(SettingsRecord("m", None))
    live.go_to(0)
    exchange(LiveConversation(save=False), "One?", "yes")
    assert conversation_files() == []


def test_an_unwritable_folder_is_reported_once_and_the_chat_continues(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    told: list[str] = []
    live = LiveConversation(on_fault=told.append)
    exchange(live, "One?", "yes")
    exchange(live, "Two?", "no")
    assert len(told) == 1
    assert "not saved" in told[0]
    assert len(live.tree.path()) == 4


def test_an_exported_conversation_is_imported_again() -> None:
    tree, _ = read_conversation(written())
    found = as_json(tree)
    assert found["model"] == "m"
    assert found["system"] == "Be brief."
    import json

    nodes, system = import_json(json.dumps(found), source="x.json")
    assert system == "Be brief."
    live = LiveConversation()
    live.adopt([replace(node, ids=()) for node in nodes])
    assert [(node.text, node.model) for node in live.tree.path()] == [(n.text, n.model) for n in tree.path()]
    assert as_markdown(tree) == (
        "# One? Or two?\n\n## System\n\nBe brief.\n\n## You\n\nOne?\nOr two?\n\n## m\n\nyes ☃\n\n"
        "## You\n\nTwo?\n\n## m\n\nno\n"
    )
    live.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"messages": "x"}',
        "[1]",
        '[{"role": "assistant", "content": "x"}]',
        '[{"role": "user", "content": 1}]',
        '[{"role": "king", "content": "x"}]',
        '[{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]',
    ],
)
def test_other_json_is_not_imported(text: str) -> None:
    with pytest.raises(LlmcliError, match=r"x\.json"):
        import_json(text, source="x.json")
