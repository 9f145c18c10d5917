"""Thoughts of reasoning models: where they are shown, and where they are kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.support.models.puppet import write_thinker
from tests.support.terminal.chat import READY, chatting, leave
from tests.support.terminal.cli import llm
from tests.support.terminal.emulator import Emulator


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thinker(tmp_path_factory.mktemp("models") / "thinker", b"Hm, 2.\n", b"\tYes!")


def test_only_the_answer_is_on_stdout(thinker: Path) -> None:
    result = llm("generate", "hi", "-m", thinker, "-t", 0)
    assert (result.stdout, result.stderr) == (b"Yes!\n", b"Hm, 2.\n\n")
    result = llm("generate", "hi", "-m", thinker, "-t", 0, "--quiet")
    assert (result.stdout, result.stderr) == (b"Yes!\n", b"")
    result = llm("generate", "hi", "-m", thinker, "-t", 0, "-n", 4)
    assert (result.stdout, result.stderr) == (b"", b"Hm,\n\n")


def test_thoughts_have_a_separate_json_field(thinker: Path) -> None:
    reply = json.loads(llm("generate", "hi", "-m", thinker, "-t", 0, "--json").stdout)
    assert (reply["thinking"], reply["text"]) == ("Hm, 2.\n", "Yes!")
    tokens = reply["tokens"]
    assert [token["thinking"] for token in tokens] == ["", *"Hm, 2.\n", "", "", *[""] * 4]
    assert "".join(token["text"] for token in tokens) == "Yes!"
    assert base64.b64decode(tokens[0]["bytes"]) == b"[THINK]"
    lines = llm("generate", "hi", "-m", thinker, "-t", 0, "--jsonl").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert "".join(event.get("thinking", "") for event in events) == "Hm, 2.\n"
    assert "".join(event.get("text", "") for event in events) == "Yes!"


def test_batch_results_separate_thoughts_from_answers(thinker: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    reply = json.loads(llm("batch", file, "-m", thinker, "-t", 0).stdout)
    assert (reply["thinking"], reply["text"]) == ("Hm, 2.\n", "Yes!")
    raw = json.loads(llm("batch", file, "-m", thinker, "-t", 0, "--raw", "-n", 3).stdout)
    assert raw["thinking"] is None


def test_a_prefill_can_begin_a_thought(thinker: Path) -> None:
    # As text, because user text never becomes control tokens.
    reply = json.loads(llm("generate", "hi", "-m", thinker, "-t", 0, "--json", "--prefill", "[THINK]A\nH").stdout)
    assert (reply["thinking"], reply["text"]) == ("A\nHm, 2.\n", "Yes!")


def test_raw_text_has_no_thoughts(thinker: Path) -> None:
    result = llm("generate", "H", "-m", thinker, "-t", 0, "--raw")
    assert (result.stdout, result.stderr) == (b"m, 2.\n[/THINK]\tYes!\n", b"")


def test_in_a_chat_a_thought_becomes_a_line_and_stays_in_the_conversation(tmp_path: Path, thinker: Path) -> None:
    with chatting(tmp_path, thinker, "--stats", plain=False) as child:
        emulator = Emulator(200, 40)
        child.sendline("One?")
        child.expect_exact("prompt")
        emulator.write(child.before[child.before.index("\x1b[?2004l") :])
        thought, blank, answer = emulator.lines()[-3:]
        assert thought.startswith("Thought for 9 tokens, ")
        assert thought.endswith(" s; /thought shows it.")
        assert (blank, answer) == ("", "Yes!")
        child.expect_exact(READY)
        child.sendline("/thought")
        child.expect_exact("Hm, 2.")
        child.sendline("/copy")
        child.expect_exact("4 characters")
        # This template keeps thoughts in the prompt, so the reply with its control tokens is in the prefix cache.
        child.sendline("Two?")
        child.expect(r"prompt (\d+) tokens \((\d+) from cache\)")
        assert int(child.match[1]) - int(child.match[2]) == len(["<end>", "<user>", *"Two?", "<end>", "<assistant>"])
        leave(child)
    (path,) = (tmp_path / "data" / "llmcli" / "conversations").iterdir()
    texts = [record.get("text", "") for record in map(json.loads, path.read_text().splitlines())]
    assert "".join(texts) == "".join(f"{asked}?[THINK]Hm, 2.\n[/THINK]\tYes!" for asked in ("One", "Two"))


def test_a_plain_chat_shows_the_thought_before_the_answer(tmp_path: Path, thinker: Path) -> None:
    with chatting(tmp_path, thinker) as child:
        child.sendline("One?")
        child.expect(r"\x1b\[2mH.*2.*\.\x1b\[0m\r\n\r\nYes!")
        leave(child)
