"""Streams that fail, signals at any moment, and models whose replies contain terminal control sequences."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pytest

from tests.support.faults.models import sound_gguf
from tests.support.faults.run import PATIENCE_S, check, command, environment, run, run_forked
from tests.support.forked import ForkedProcess, on_terminal
from tests.support.models.puppet import chain, loop, write_puppet

pytestmark = pytest.mark.slow

DRIVING = "\x1b]0;owned\x07\x9b2J\u202e\r"
HOSTILE = b"a\x1b]52;c;eA==\x07b\x1b[2Jc\x08\r\x9b31m[/b]"


def started(arguments: Sequence[object], home: Path, stdin: int | None = None) -> ForkedProcess:
    return ForkedProcess(arguments, environment(home), stdin=stdin)


def code_of(child: subprocess.Popen[bytes] | ForkedProcess) -> int:
    """The exit code as a shell would report it."""
    code = child.wait()
    return code if code >= 0 else 128 - code


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
def test_lost_output_is_never_success(
    arguments: list[str], redirect: str, code: int, says: str, endless: Path, tmp_path: Path
) -> None:
    if arguments[0] == "GENERATE":
        arguments = ["generate", "-m", str(endless), "-t", "0", *arguments[1:]]
    stdout = None if "--record" in arguments or "--html" in arguments else b""
    if arguments[0] == "generate" and redirect == ">/dev/full":
        with Path("/dev/full").open("wb") as full:
            outcome = run_forked(arguments, tmp_path, stdout=full.fileno())
    else:
        outcome = run_forked(arguments, tmp_path) if not redirect else run(arguments, tmp_path, redirect=redirect)
    check(outcome, code, [says], stdout=stdout)


def test_a_reached_disk_quota_is_an_error(endless: Path, tmp_path: Path) -> None:
    arguments = ["generate", "-m", endless, "-t", 0, "-n", 2000, "Hi"]
    outcome = run(arguments, tmp_path, limits="-f 1", redirect=f">{tmp_path / 'reply'}")
    check(outcome, 1, ["File too large"])
    assert (tmp_path / "reply").stat().st_size <= 1024


@pytest.mark.parametrize("arguments", [["--help"], ["GENERATE"]], ids=["help", "generate"])
def test_a_closed_pipe_ends_the_command_quietly(arguments: list[str], endless: Path, tmp_path: Path) -> None:
    if arguments == ["GENERATE"]:
        arguments = ["generate", "-m", str(endless), "-t", "0", "Hi"]
    with started(arguments, tmp_path) as child:
        if arguments[0] == "generate":
            assert child.stdout.read(4) == b"abc\n"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(PATIENCE_S) == 141


def test_without_stderr_the_answer_is_still_written(endless: Path, tmp_path: Path) -> None:
    outcome = run(["generate", "-m", endless, "-t", 0, "-n", 4, "Hi"], tmp_path, redirect="2>&-")
    check(outcome, 0, [], stdout=b"abc\n")
    assert run(["generate", "-m", tmp_path / "no", "Hi"], tmp_path, redirect="2>&-").code == 3


def test_undecodable_input_is_refused(endless: Path, tmp_path: Path) -> None:
    for stdin in (b"\xff\xfe\x00\x80", b"\xef\xbb\xbfHi\0\r\n"):
        arguments = ["generate", "-m", endless, "-t", 0, "-n", 4, "-"]
        # Which encoding a locale means is decided when Python starts.
        outcome = run(arguments, tmp_path, stdin=stdin, env={"LC_ALL": "C"})
        check(outcome, 0, [], stdout=b"abc\n")


def test_the_error_for_a_prompt_too_long_has_both_numbers(hostile: Path, tmp_path: Path) -> None:
    outcome = run_forked(["generate", "-m", hostile, "-t", 0, "-n", 4, "-"], tmp_path, stdin=b"word " * 2000)
    check(outcome, 6, ["10004", "512"])


def test_control_characters_of_a_reply_reach_a_pipe_but_not_a_terminal(hostile: Path, tmp_path: Path) -> None:
    arguments = ["generate", "-m", hostile, "-t", 0, "-n", 100, "Hi"]
    outcome = run(arguments, tmp_path)
    assert b"\x1b" in outcome.stdout and outcome.code == 0
    env = {**environment(tmp_path), "TERM": "xterm"}
    child = on_terminal([*arguments, "--no-color"], env, real=True, timeout=PATIENCE_S)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "␛".encode() in child.before
    # The only sequences are those that clear the progress line.
    words = child.before.replace(b"\x1b[2K", b"").replace(b"\x1b[?25l", b"").replace(b"\x1b[?25h", b"")
    words = words.replace(b"\x1b[1A", b"")
    assert b"\x1b" not in words and b"\x07" not in words and b"\x08" not in words


def written_to_a_terminal(arguments: Sequence[object], home: Path) -> str:
    """The output of a command on a terminal with all capabilities."""
    env = {**environment(home), "TERM": "xterm-256color"}
    child = on_terminal(arguments, env, size=(24, 200), timeout=PATIENCE_S)
    child.expect(pexpect.EOF)
    child.close()
    # `llm doctor` ends with 1 if it finds a problem.
    assert child.exitstatus == (1 if arguments[0] == "doctor" else 0), child.before
    # Decoded before it is searched, as terminals do.
    return str(child.before.decode("utf-8", errors="replace"))


STYLE_OR_LINE_END = re.compile(r"\x1b\[[0-9;]*m|\r\n")


@pytest.fixture(scope="module")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with names and texts that contain terminal control sequences."""
    home = tmp_path_factory.mktemp("driving")
    models, settings = home / "XDG_DATA_HOME/llmcli/models", home / "XDG_CONFIG_HOME/llmcli"
    models.mkdir(parents=True)
    (settings / "templates").mkdir(parents=True)
    sound_gguf(models / f"m{DRIVING}.gguf", general__name=f"n{DRIVING}", tokenizer__chat_template=f"t{DRIVING}")
    (settings / "aliases.json").write_text(json.dumps({"a": f"b{DRIVING}"}))
    (settings / "templates/t.toml").write_text(f"prompt = {json.dumps(f'p{DRIVING}')}")
    chats = home / "XDG_DATA_HOME/llmcli/conversations"
    chats.mkdir()
    lines = [
        {"kind": "begin", "id": "c", "time": f"{DRIVING}", "program": "llmcli", "version": 1},
        {"kind": "settings", "model": f"m{DRIVING}", "source": None, "system": f"s{DRIVING}"},
        {"kind": "question", "n": 1, "after": 0, "text": f"q{DRIVING}", "time": "t"},
        {"kind": "reply", "n": 2, "after": 1, "model": f"m{DRIVING}", "sampling": {}, "time": "t"},
        {"kind": "more", "n": 2, "text": f"r{DRIVING}", "ids": [1]},
        {"kind": "end", "n": 2, "reason": "stop"},
    ]
    (chats / "c.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return home


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "--json"],
        ["show", "MODEL"],
        ["show", "MODEL", "--json"],
        ["show", "MODEL", "--template"],
        ["show", "MODEL", "--template", "--json"],
        ["doctor", "MODEL"],
        ["inspect", "tokens", f"x{HOSTILE.decode('latin-1')}", "-m", "MODEL"],
        ["inspect", "tokens", f"x{HOSTILE.decode('latin-1')}", "-m", "MODEL", "--json"],
        ["alias", "list"],
        ["alias", "list", "--json"],
        ["prompt", "show", "t"],
        ["prompt", "list", "--json"],
        ["chats", "list"],
        ["chats", "list", "--json"],
        ["chats", "show", "c"],
        ["chats", "export", "c"],
        ["chats", "export", "c", "-f", "markdown"],
        ["config", "generate", "-s", f"s{HOSTILE.decode('latin-1')}"],
    ],
    ids=" ".join,
)
def test_no_command_writes_control_characters_of_its_data_to_a_terminal(arguments: list[str], driving: Path) -> None:
    model = next((driving / "XDG_DATA_HOME/llmcli/models").iterdir()).stem
    shown = written_to_a_terminal([model if each == "MODEL" else each for each in arguments], driving)
    plain = STYLE_OR_LINE_END.sub("\n", shown)
    assert plain.strip()
    assert not [char for char in plain if not (char == "\n" or char.isprintable())], ascii(plain)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_signals_while_a_reply_is_written(number: signal.Signals, code: int, endless: Path, tmp_path: Path) -> None:
    with started(["generate", "-m", endless, "-t", 0, "Hi"], tmp_path) as child:
        assert child.stdout.read(4) == b"abc\n"
        child.send_signal(number)
        _, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stderr) == (code, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_signals_while_a_long_prompt_is_read(number: signal.Signals, code: int, endless: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("word " * 100_000)
    with (tmp_path / "long").open("rb") as stdin:
        child = started(["generate", "-m", endless, "-t", 0, "-n", 1, "-"], tmp_path, stdin.fileno())
    with child:
        time.sleep(2)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stdout.strip(), stderr) == (code, b"", b"")


def wait_for_our_code(child: subprocess.Popen[bytes]) -> None:
    """Wait until Python has started: our code begins by removing Python's SIGINT handler."""
    caught = False
    for _ in range(10_000):
        status = Path(f"/proc/{child.pid}/status").read_text()
        mask = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16)
        if caught and not mask & 1 << (signal.SIGINT - 1):
            return
        caught = caught or bool(mask & 1 << (signal.SIGINT - 1))
        time.sleep(0.002)
    pytest.fail("the program did not start within 20 seconds")


@pytest.mark.skipif(sys.platform != "linux", reason="which signals a process catches is read from /proc")
@pytest.mark.parametrize("seconds", [0, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_during_startup(seconds: float, endless: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(["generate", "-m", endless, "-t", 0, "Hi"]),
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        wait_for_our_code(child)
        time.sleep(seconds)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=PATIENCE_S)
    assert (code_of(child), stderr) == (130, b"")
