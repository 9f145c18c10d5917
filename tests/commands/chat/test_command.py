"""`llm chat` at a real terminal: a pseudo-terminal with the program at the other end."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pexpect
import pytest

from tests.support.models.puppet import ASSISTANT, END, chain, loop, write_puppet
from tests.support.models.tiny import write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.chat import READY, chatting, leave
from tests.support.terminal.cli import start


@pytest.mark.slow
def test_a_conversation_with_commands_and_history(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "speaker", chain(b"Yes, ok."))
    with chatting(tmp_path, model, "--stats", real=True) as child:
        child.sendline("One?")
        child.expect_exact("Yes, ok.")
        child.expect(r"prompt \d+ tokens .*(readable model, cpu|cpu kernel)")
        child.sendline("Two?")
        child.expect_exact("Yes, ok.")
        child.expect(r"prompt \d+ tokens \((\d+) from cache\)")
        assert int(child.match[1]) > 10
        for message, answer in (
            ("/retry", "Yes, ok."),
            ("/stats", "first token"),
            ("/system Be brief.", "System prompt: Be brief."),
            ("/clear", "begins anew"),
            ("/retry", "Nothing has been said yet"),
            ("/sistem", "Did you mean /system?"),
            ("/help", "/exit"),
            ("//slash", "Yes, ok."),
        ):
            child.sendline(message)
            child.expect_exact(answer)
        child.sendline("/exit")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    assert "Two?" in (tmp_path / "data" / "llmcli" / "history").read_text()
    with chatting(tmp_path, model) as child:
        child.send("\x1b[A\x1b[A\r")  # two up: //slash before /exit
        child.expect_exact("//slash")
        child.expect_exact("Yes, ok.")
        leave(child)


def test_ctrl_c_ends_a_reply_and_keeps_it(tmp_path: Path) -> None:
    endless = loop(b"abc\n")
    model = write_puppet(tmp_path / "speaker", endless, context=100_000)
    with chatting(tmp_path, model) as child:
        child.sendline("Go on")
        child.expect_exact("abc\r\nabc\r\n")
        child.sendintr()
        child.expect_exact("the text so far is kept")
        child.expect_exact(READY)
        child.sendintr()
        child.expect_exact("/exit leaves")
        child.sendline("/stats")
        child.expect(r"prompt (\d+) tokens.*wrote (\d+) tokens")
        said = int(child.match[2])
        child.sendline("And on")
        child.expect_exact("abc\r\nabc\r\n")
        child.sendintr()
        child.sendline("/stats")
        child.expect(r"prompt (\d+) tokens \((\d+) from cache\)")
        # The partial reply is part of the conversation, and was not computed again.
        assert int(child.match[2]) >= said
        leave(child)


@pytest.mark.slow
def test_control_sequences_in_a_reply_do_not_reach_the_terminal(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "hostile", chain(b"\x1b]0;owned\x07[/b\r\x9b"))
    with chatting(tmp_path, model, "--no-color") as child:
        child.sendline("hi")
        child.expect_exact("␛]0;owned␇[/b␍")
        assert "\x1b]0;" not in child.before
        leave(child)


@pytest.mark.slow
def test_probabilities_color_the_reply(tmp_path: Path) -> None:
    model = write_puppet(
        tmp_path / "unsure", {ASSISTANT: {65: 0.95, 66: 0.05}, 65: {67: 0.3, 68: 0.25, 69: 0.45}, 69: {END: 1.0}}
    )
    with chatting(tmp_path, model, "--probs", "--top", "2", TERM="xterm-256color") as child:
        child.sendline("hi")
        child.expect(r"b\x1b\[38;5;\d+;48;5;\d+mf\x1b\[0m")
        child.expect_exact("20%+")
        child.expect("could have been")
        child.expect(r"45\.[01]%")
        child.expect(r"30\.0%")
        leave(child)


def test_piped_text_is_the_first_message_and_without_a_terminal_the_only_one(tmp_path: Path) -> None:
    from tests.support.terminal.cli import llm

    model = write_puppet(tmp_path / "speaker", chain(b"Yes."))
    # A session without a controlling terminal has no keyboard for further messages.
    result = llm("chat", "-m", model, "-t", 0, stdin=b"Hello?\n", env={"XDG_DATA_HOME": str(tmp_path)})
    assert (result.stdout, result.returncode) == (b"Yes.\n", 0)
    (tmp_path / "notes.txt").write_text("Notes.\n")
    folder = tmp_path / "another"
    result = llm("chat", "-m", model, tmp_path / "notes.txt", stdin=b"Hm?\n", env={"XDG_DATA_HOME": str(folder)})
    assert b"notes.txt, 6 tokens; it goes along" in result.stderr
    (path,) = folder.rglob("*.jsonl")
    asked = f"{tmp_path}/notes.txt\\n```\\nNotes.\\n```\\n\\nHm?"
    assert f'"text":"{asked}"' in path.read_text().replace('": "', '":"')


def test_an_unreadable_file_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    from tests.support.terminal.cli import llm

    result = llm("chat", "-m", tmp_path / "no-model", tmp_path / "no-file")
    assert result.returncode == 2
    assert b"no-file' to talk about" in result.stderr and b"llm generate" in result.stderr


@pytest.mark.slow
def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "base", chain(b"Yes."))
    write_text_files(model, template=None)
    process = start("chat", "-m", model)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"llm generate continues text" in err


@pytest.mark.parametrize("setting", [["--temperature", "-1"], ["--context", "0"]])
def test_invalid_settings_are_refused_at_once(tmp_path: Path, setting: list[str]) -> None:
    from tests.support.terminal.cli import llm

    model = write_puppet(tmp_path / "speaker", chain(b"Yes."))
    assert llm("chat", "-m", model, *setting).returncode == 2


@pytest.mark.slow
def test_inspecting_a_token_of_the_last_reply(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "m", "llama", max_position_embeddings=512)
    with chatting(tmp_path, model, "-n", "4", "--attention") as child:
        child.sendline("/why")
        child.expect_exact("There has been no reply yet.")
        child.sendline("One?")
        child.expect("said.*sink.*self.*read")
        child.sendline("/why 2")
        child.expect("could be")
        child.expect("neurons")
        child.sendline("/lens 0")
        child.expect("expect noise")
        child.sendline("/attention")
        child.expect("block.*sink.*self.*read")
        child.sendline("/attention 4")
        child.expect_exact("There is no token 4: the last reply has 4")
        child.sendline("/why x")
        child.expect_exact("is not in the last reply")
        leave(child)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of another process is limited on Linux only")
def test_a_conversation_continues_after_running_out_of_memory(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "speaker", chain(b"Yes, ok."))
    notes = tmp_path / "notes.txt"
    notes.write_text("a word\n")
    with chatting(tmp_path, model) as child:
        child.sendline("One?")
        child.expect_exact("Yes, ok.")
        before = resource.prlimit(child.pid, resource.RLIMIT_AS)
        used = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        # Less than the buffer for reading a file of any size.
        resource.prlimit(child.pid, resource.RLIMIT_AS, (used + (32 << 20), before[1]))
        child.sendline(f"/read {notes}")
        child.expect_exact("There is not enough memory")
        resource.prlimit(child.pid, resource.RLIMIT_AS, before)
        child.sendline("Two?")
        child.expect_exact("Yes, ok.")
        leave(child)
