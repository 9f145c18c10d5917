"""A chat on a real terminal: keys, signals, sizes, and terminals with few capabilities."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pexpect
import pytest

from tests.support.models.puppet import chain, loop, write_puppet
from tests.support.terminal.chat import READY, chatting, leave

pytestmark = pytest.mark.slow


def records(tmp_path: Path) -> list[dict[str, object]]:
    """All records of the only conversation."""
    (path,) = (tmp_path / "data" / "llmcli" / "conversations").iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(tmp_path: Path) -> list[object]:
    return [record["text"] for record in records(tmp_path) if record["kind"] == "question"]


def reply(tmp_path: Path) -> str:
    return "".join(str(record["text"]) for record in records(tmp_path) if record["kind"] == "more")


@pytest.fixture
def speaker(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "speaker", chain(b"Yes, ok."))


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "endless", loop(b"abc\n"), context=100_000)


def test_several_lines_are_one_message(tmp_path: Path, speaker: Path) -> None:
    with chatting(tmp_path, speaker) as child:
        for typed in (
            "\x1b[200~pasted\rin\nlines\x1b[201~\r",
            "with\x1b\rAlt-Enter\r",
            '"""fenced\rin\r"""\r',
            # Ctrl-R finds an earlier message.
            "\x12Alt\r\r",
        ):
            child.send(typed)
            child.expect_exact("Yes, ok.")
            child.expect_exact(READY)
        child.send("/sys\t")
        child.expect_exact("tem")
        child.send("\r")
        child.expect_exact("System prompt: (none)")
        leave(child)
    assert questions(tmp_path) == ["pasted\nin\nlines", "with\nAlt-Enter", "fenced\nin", "with\nAlt-Enter"]
    assert (tmp_path / "data" / "llmcli" / "history").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("blow", "code"),
    [(signal.SIGKILL, None), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_a_chat_ended_during_a_reply_can_be_resumed(
    tmp_path: Path, endless: Path, blow: signal.Signals, code: int | None
) -> None:
    with chatting(tmp_path, endless) as child:
        child.sendline("Go on")
        child.expect_exact("abc\r\n" * 5)
        # Longer than the text that may be lost when the process is killed.
        time.sleep(0.7)
        child.kill(blow)
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == code
    assert questions(tmp_path) == ["Go on"]
    assert reply(tmp_path).startswith("abc\n" * 5)
    if blow is not signal.SIGKILL:
        assert records(tmp_path)[-1] == {"kind": "end", "n": 2, "reason": "interrupted"}
        return
    with chatting(tmp_path, endless, "--continue", "-n", "3") as child:
        child.sendline("/show")
        child.expect(r"context +(\d+) of")
        assert int(child.match[1]) > 20
        child.sendline("And then?")
        child.expect_exact("abc")
        leave(child)
    assert questions(tmp_path) == ["Go on", "And then?"]
    assert records(tmp_path)[-1]["n"] == 4


def test_ctrl_c_during_prefill_loses_nothing(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "speaker", chain(b"Yes, ok."), context=100_000)
    (tmp_path / "long.txt").write_text("word " * 3_200)
    with chatting(tmp_path, model, size=(40, 100)) as child:
        child.sendline(f"/read {tmp_path}/long.txt")
        child.expect(r"16000\S*\s+\S*tokens")  # notes are broken between words, each line dim of itself
        child.sendline("What is it?")
        child.expect_exact("Reading the prompt")
        child.sendintr()
        child.expect_exact("/retry asks again")
        child.sendline("/retry")
        child.expect_exact("Yes, ok.")
        # The whole prompt is computed again; the old reply is kept until the new one has begun.
        child.sendline("/system Be brief.")
        child.expect_exact("System prompt: Be brief.")
        child.sendline("/retry")
        child.expect_exact("Reading the prompt")
        child.sendintr()
        child.expect_exact("The reply before is kept")
        child.sendline("/tokens")
        child.expect(r"8  speaker: Yes, ok\.")
        leave(child)


def test_text_typed_during_a_reply_is_kept_for_the_next_message(tmp_path: Path, endless: Path) -> None:
    with chatting(tmp_path, endless) as child:
        child.sendline("Go on")
        child.expect_exact("abc\r\nabc\r\n")
        child.send("ty\x1b[200~ped\rahead\x1b[201~")
        time.sleep(0.3)
        child.sendintr()
        child.expect_exact("the text so far is kept")
        assert not re.search("[tyd]", re.sub("interrupted.*", "", child.before, flags=re.IGNORECASE | re.DOTALL))
        child.expect("typed.*ahead")
        child.send(" and more\r")
        child.expect_exact("abc\r\n")
        child.sendintr()
        leave(child)
    assert questions(tmp_path) == ["Go on", "typed\nahead and more"]


def test_narrow_and_resized_terminals(tmp_path: Path, endless: Path) -> None:
    with chatting(tmp_path, endless, "-n", "2000", size=(24, 40), PROMPT_TOOLKIT_NO_CPR="") as child:
        # The toolbar needs the position of the line on the screen, for which it queries the terminal.
        child.send("\x1b[3;1R")
        child.expect(r"0/100000 tokens")
        child.sendline("Go on")
        child.expect_exact("abc\r\nabc\r\n")
        child.setwinsize(50, 120)
        child.expect_exact("abc\r\nabc\r\n")
        child.setwinsize(10, 20)
        child.expect_exact("\x1b[6n")
        child.send("\x1b[3;1R")
        # The toolbar is cut to the width of the terminal.
        child.expect(r"20\d\d/100000 tokens")
        child.sendline("/tokens")
        child.expect_exact("included")
        child.expect_exact(READY)
        child.send("\x1b[3;1R/exit\r")
        child.expect(pexpect.EOF)
    assert reply(tmp_path) == "abc\n" * 500


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, speaker: Path) -> None:
    with chatting(tmp_path, speaker, TERM="dumb") as child:
        heard = child.before
        child.send('"""One\n')
        child.send('line?"""\n')
        child.expect_exact("Yes, ok.")
        heard += child.before
        child.expect_exact("> ")
        child.sendintr()
        child.expect_exact("/exit leaves")
        child.sendline("/copy")
        child.expect_exact("Only a terminal has a clipboard")
        child.expect_exact("> ")
        heard += child.before
        child.sendeof()
        child.expect(pexpect.EOF)
        assert "\x1b" not in heard + child.before
    assert questions(tmp_path) == ["One\nline?"]


def test_no_colors_are_written_without_color_support(tmp_path: Path, speaker: Path) -> None:
    with chatting(tmp_path, speaker, "--probs", NO_COLOR="1", TERM="xterm-256color") as child:
        child.sendline("One?")
        child.expect_exact("perplexity")
        child.sendline("/copy")
        child.expect_exact("\x1b]52;c;WWVzLCBvay4=\x07")
        child.expect_exact(READY)
        seen = child.before
        # Bold and reversed are not colors; 3x, 4x, 9x and 10x are.
        assert not re.search(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m", seen)
        child.sendeof()
        child.expect(pexpect.EOF)


def test_files_are_attached_to_the_first_message(tmp_path: Path, speaker: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"Text {name}.\n")
    with chatting(tmp_path, speaker, f"{tmp_path}/one", f"{tmp_path}/two") as child:
        child.sendline("Which?")
        child.expect_exact("Yes, ok.")
        child.expect_exact(READY)
        child.sendline("And?")
        child.expect_exact("Yes, ok.")
        leave(child)
    sent = "\n\n".join(f"{tmp_path}/{name}\n```\nText {name}.\n```" for name in ("one", "two"))
    assert questions(tmp_path) == [f"{sent}\n\nWhich?", "And?"]


def test_piped_text_is_answered_before_typed_text(tmp_path: Path, speaker: Path) -> None:
    import os
    import sys

    (tmp_path / "notes.txt").write_text("Some notes.\n")
    env = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    command = f"cat {tmp_path}/notes.txt | {sys.executable} -m llmcli chat -m {speaker} -t 0"
    child = pexpect.spawn("/bin/sh", ["-c", command], env=env, timeout=60, encoding="utf-8", dimensions=(40, 200))
    try:
        child.expect_exact("Yes, ok.")
        child.expect_exact(READY)
        child.sendline("And?")
        child.expect_exact("Yes, ok.")
        leave(child)
    finally:
        child.close(force=True)
    assert questions(tmp_path) == ["Some notes.", "And?"]


@pytest.mark.parametrize("colors", [True, False])
def test_the_user_and_the_model_can_be_told_apart(tmp_path: Path, speaker: Path, colors: bool) -> None:
    with chatting(tmp_path, speaker, TERM="xterm-256color", NO_COLOR="" if colors else "1") as child:
        child.sendline("One?")
        # The name of the model, its reply as plain text, and a blank line before the next message.
        child.expect(r"speaker:(\x1b\[0m)?\r\n(\x1b\[\?2004h)?Yes, ok\.\r\n(\x1b\[\?2004l)?\r\n")
        child.expect_exact(READY)
        child.send("Two")
        child.expect_exact("Two")
        assert ">" in child.before and ("38;5;29" in child.before) is colors
        child.sendline("?")
        child.expect_exact("Yes, ok.")
        leave(child)


def test_leaving_a_chat_notes_how_to_resume_it(tmp_path: Path, speaker: Path) -> None:
    with chatting(tmp_path, speaker) as child:
        child.sendline("/show")
        leave(child)
        assert "--resume" not in child.before  # nothing was said
    with chatting(tmp_path, speaker) as child:
        child.sendline("A question?")
        child.expect_exact("Yes, ok.")
        leave(child)
        path = max((tmp_path / "data" / "llmcli" / "conversations").iterdir())
        # The command has a line to itself, so that it can be copied at every width.
        assert "llm chat -c continues this conversation" in child.before
        assert re.search(rf"\r\n(\x1b\[2m)?llm chat --resume {path.stem}(\x1b\[0m)?\r\n", child.before)
    with chatting(tmp_path, speaker, "-c") as child:
        child.sendline("/history")
        child.expect("> .*A question[?].*speaker:.*Yes, ok[.]")
        leave(child)
