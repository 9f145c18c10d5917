"""Streams that fail, signals at every moment, and models whose words would drive a terminal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pytest

from tests.faults.running import PATIENCE_S, check, command, environment, run
from tests.puppet import chain, loop, write_puppet

HOSTILE = b"a\x1b]52;c;eA==\x07b\x1b[2Jc\x08\r\x9b31m[/b]"


def started(arguments: Sequence[object], home: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(arguments), env=environment(home), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def code_of(child: subprocess.Popen[bytes]) -> int:
    """As a shell would report it."""
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("endless") / "model", loop(b"abc\n"), context=1_000_000)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = bytes(dict.fromkeys(HOSTILE))
    return write_puppet(tmp_path_factory.mktemp("hostile") / "model", chain(said))


@pytest.mark.parametrize(
    ("arguments", "redirect", "code", "says"),
    [
        (["--help"], ">/dev/full", 1, "No space left on device"),
        (["--version"], ">/dev/full", 1, "No space left on device"),
        (["list", "--json"], ">/dev/full", 1, "No space left on device"),
        (["config"], ">/dev/full", 1, "No space left on device"),
        (["list", "--json"], ">&-", 1, "Standard output is closed"),
        (["GENERATE", "Hi", "-n", "5"], ">/dev/full", 1, "No space left on device"),
        (["GENERATE", "Hi", "-n", "5", "--json"], ">/dev/full", 1, "No space left on device"),
        (["GENERATE", "Hi", "-n", "5"], ">&-", 1, "Standard output is closed"),
        (["GENERATE", "Hi", "-n", "5", "--record", "/dev/full"], "", 1, "No space left on device"),
        (["GENERATE", "Hi", "-n", "5", "--html", "/dev/full"], "", 1, "No space left on device"),
        (["GENERATE"], "<&-", 2, "There is no prompt"),
        (["score", "-"], "<&-", 2, "is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_output_that_is_lost_is_never_success(
    arguments: list[str], redirect: str, code: int, says: str, endless: Path, tmp_path: Path
) -> None:
    if arguments[0] == "GENERATE":
        arguments = ["generate", "-m", str(endless), "-t", "0", *arguments[1:]]
    stdout = None if "--record" in arguments or "--html" in arguments else b""
    check(run(arguments, tmp_path, redirect=redirect), code, [says], stdout=stdout)


def test_a_disk_quota_that_is_reached(endless: Path, tmp_path: Path) -> None:
    arguments = ["generate", "-m", endless, "-t", 0, "-n", 2000, "Hi"]
    outcome = run(arguments, tmp_path, limits="-f 1", redirect=f">{tmp_path / 'reply'}")
    check(outcome, 1, ["File too large"])
    assert (tmp_path / "reply").stat().st_size <= 1024


@pytest.mark.parametrize("arguments", [["--help"], ["GENERATE"]], ids=["help", "generate"])
def test_a_pipe_whose_reader_goes_away_ends_it_quietly(arguments: list[str], endless: Path, tmp_path: Path) -> None:
    if arguments == ["GENERATE"]:
        arguments = ["generate", "-m", str(endless), "-t", "0", "Hi"]
    with started(arguments, tmp_path) as child:
        assert child.stdout is not None and child.stderr is not None
        if arguments[0] == "generate":
            assert child.stdout.read(4) == b"abc\n"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(PATIENCE_S) == 141


def test_without_stderr_the_answer_comes_all_the_same(endless: Path, tmp_path: Path) -> None:
    outcome = run(["generate", "-m", endless, "-t", 0, "-n", 4, "Hi"], tmp_path, redirect="2>&-")
    check(outcome, 0, [], stdout=b"abc\n")
    assert run(["generate", "-m", tmp_path / "no", "Hi"], tmp_path, redirect="2>&-").code == 3


def test_input_that_is_no_text(endless: Path, tmp_path: Path) -> None:
    for stdin in (b"\xff\xfe\x00\x80", b"\xef\xbb\xbfHi\0\r\n"):
        outcome = run(["generate", "-m", endless, "-t", 0, "-n", 4, "-"], tmp_path, stdin=stdin, env={"LC_ALL": "C"})
        check(outcome, 0, [], stdout=b"abc\n")


def test_a_prompt_that_does_not_fit_is_told_with_both_numbers(hostile: Path, tmp_path: Path) -> None:
    outcome = run(["generate", "-m", hostile, "-t", 0, "-n", 4, "-"], tmp_path, stdin=b"word " * 2000)
    check(outcome, 6, ["10004", "512"])


def test_what_a_model_says_is_itself_in_a_pipe_and_harmless_on_a_terminal(hostile: Path, tmp_path: Path) -> None:
    arguments = ["generate", "-m", hostile, "-t", 0, "-n", 100, "Hi"]
    outcome = run(arguments, tmp_path)
    assert b"\x1b" in outcome.stdout and outcome.code == 0
    child = pexpect.spawn(
        sys.executable,
        ["-m", "llmcli", *map(str, arguments), "--no-color"],
        env={**environment(tmp_path), "TERM": "xterm"},
        timeout=PATIENCE_S,
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "␛".encode() in child.before
    # The only sequences are those that clear the progress line.
    words = child.before.replace(b"\x1b[2K", b"").replace(b"\x1b[?25l", b"").replace(b"\x1b[?25h", b"")
    words = words.replace(b"\x1b[1A", b"")
    assert b"\x1b" not in words and b"\x07" not in words and b"\x08" not in words


@pytest.mark.parametrize(
    ("blow", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_signals_while_a_reply_is_written(blow: signal.Signals, code: int, endless: Path, tmp_path: Path) -> None:
    with started(["generate", "-m", endless, "-t", 0, "Hi"], tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.read(4) == b"abc\n"
        child.send_signal(blow)
        _, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stderr) == (code, b"")


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_signals_while_a_long_prompt_is_read(blow: signal.Signals, code: int, endless: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("word " * 100_000)
    with (tmp_path / "long").open("rb") as stdin:
        child = started(["generate", "-m", endless, "-t", 0, "-n", 1, "-"], tmp_path, stdin.fileno())
    with child:
        time.sleep(2)
        child.send_signal(blow)
        stdout, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stdout.strip(), stderr) == (code, b"", b"")


def wait_for_our_code(child: subprocess.Popen[bytes]) -> None:
    """Until it is no longer Python's own start that is going on: our code begins with giving up Python's handler."""
    caught = False
    for _ in range(1000):
        status = Path(f"/proc/{child.pid}/status").read_text()
        mask = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16)
        if caught and not mask & 1 << (signal.SIGINT - 1):
            return
        caught = caught or bool(mask & 1 << (signal.SIGINT - 1))
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform != "linux", reason="which signals a process catches is read from /proc")
@pytest.mark.parametrize("seconds", [0, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_while_it_starts(seconds: float, endless: Path, tmp_path: Path) -> None:
    with started(["generate", "-m", endless, "-t", 0, "Hi"], tmp_path) as child:
        wait_for_our_code(child)
        time.sleep(seconds)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stderr) == (130, b"")
