"""Long work on a terminal says what it does and how long it takes, hides typed text, and ends at Ctrl-C."""

from __future__ import annotations

import termios
import uuid
from pathlib import Path

import pexpect
import pytest

from tests.support.faults.run import environment
from tests.support.forked import ForkedProcess, on_terminal
from tests.support.models.puppet import chain, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.chat import READY, chatting

# Pseudo-terminals, and work that takes seconds.
pytestmark = pytest.mark.slow

FACT = ("The Tower is in the city of", "--subject", "Tower")
WORK: dict[str, tuple[list[str], str]] = {
    "trace": (["trace", *FACT, "--samples", "3000"], "Tracing"),
    "edit": (["edit", *FACT, "--to", "Rome", "--corpus", "corpus.txt"], "Computing key statistics"),
    "lens": (["inspect", "lens", "word " * 3000], "Reading"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=100_000)


def echoes(child: pexpect.spawn) -> bool:
    """Whether the terminal shows what is typed."""
    return bool(termios.tcgetattr(child.child_fd)[3] & termios.ECHO)


@pytest.mark.parametrize("name", WORK)
def test_work_shows_its_progress_until_ctrl_c_ends_it(name: str, model: Path, tmp_path: Path) -> None:
    arguments, label = WORK[name]
    # Different each time: the statistics of a text are kept.
    (tmp_path / "corpus.txt").write_text(f"{uuid.uuid4()} " + "word " * 100_000)
    arguments = [str(tmp_path / each) if each == "corpus.txt" else each for each in arguments]
    env = {**environment(tmp_path), "TERM": "xterm", "NO_COLOR": "1"}
    child = on_terminal([*arguments, "-m", model], env, timeout=120, encoding="utf-8")
    # What is done, how much of it, and how long it will take.
    child.expect(label + r" [━╸╺ ]+[\d,]+/[\d,]+ \S+ about \d+ (s|min) left")
    assert not echoes(child)
    child.send("typed")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert "typed" not in child.before and "^C" not in child.before
    assert child.before.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_a_pipe_gets_no_progress_bar(model: Path, tmp_path: Path) -> None:
    arguments, _ = WORK["lens"]
    with ForkedProcess([*arguments, "-m", model], {**environment(tmp_path), "TERM": "xterm"}) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0 and stdout
    assert b"\x1b" not in stdout + stderr and b"Reading" not in stderr


def test_an_inspection_in_a_chat_shows_its_progress_and_keeps_what_is_typed(tmp_path: Path) -> None:
    speaker = write_puppet(tmp_path / "speaker", chain(b"Yes, ok."), context=100_000)
    (tmp_path / "long.txt").write_text("word " * 5_000)
    with chatting(tmp_path, speaker, size=(40, 100), NO_COLOR="1") as child:
        child.sendline(f"/read {tmp_path}/long.txt")
        child.expect_exact("Enter alone sends it")
        child.sendline("What is it?")
        child.expect_exact("Yes, ok.")
        child.expect_exact(READY)
        for command in ("/why 1", "/lens 1"):
            child.sendline(command)
            child.expect(r"Reading again [━╸╺ ]+[\d,]+/[\d,]+ tokens about \d+ (s|min) left")
            assert not echoes(child)
            child.send("typed")
            child.sendintr()
            child.expect_exact("Interrupted.")
            assert "typed" not in child.before
            # The line editor shows it, and Ctrl-U removes it.
            child.expect_exact("typed")
            child.sendcontrol("u")
        child.sendline("/exit")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
