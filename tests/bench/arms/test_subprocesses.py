"""Timing and ending of processes, with small Python programs in place of models."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.bench.arms import subprocesses
from llmcli.bench.arms.protocol import ArmError
from llmcli.bench.arms.subprocesses import ARM, CAN_DROP, answers, drop_from_page_cache, environment, timed
from llmcli.bench.hardware.memory import peak_resident_bytes
from llmcli.bench.plan import BenchPlan, Sizes

PLAN = BenchPlan("llmcli", "/nowhere.gguf", "cpu", "auto", 1, (1, 2, 3), Sizes((2,), (0,), 2))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def acting(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replace the arm's process by a small program."""
    monkeypatch.setattr(subprocesses, "ARM", python(code))


def test_first_output_comes_before_the_exit() -> None:
    times = timed(python("import sys, time; print(1, flush=True); time.sleep(0.2); print(2)"), os.environ)
    assert times.first_output_s is not None
    assert times.exit_s - times.first_output_s >= 0.2


def test_a_process_without_output_has_no_first_output_time() -> None:
    assert timed(python(""), os.environ).first_output_s is None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "ended with exit code 3."),
        ("import sys; sys.stderr.write('first\\nwhy\\n'); sys.exit(1)", "ended with exit code 1: why"),
        ('print(\'{"error": "a reason"}\'); raise SystemExit(1)', "^a reason$"),
        ("print('[1]'); raise SystemExit(1)", "ended with exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        # More than a pipe holds, on stderr.
        ("import sys; sys.stderr.write('x' * 10**6 + '\\nlast'); sys.exit(1)", ": last$"),
    ],
)
def test_a_failed_process_is_reported_with_its_error(code: str, message: str) -> None:
    with pytest.raises(ArmError, match=message):
        timed(python(code), os.environ, PLAN)


def test_answers_are_yielded_as_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    acting(monkeypatch, "import json; print(json.dumps({'how': json.loads(input())['model']}))")
    assert list(answers(PLAN, os.environ)) == [{"how": "/nowhere.gguf"}]


@pytest.mark.parametrize(
    "code",
    [
        'print(\'{"error": "gone"}\')',
        "print('{\"doing\"', end=''); raise SystemExit('gone')",
        "raise SystemExit('gone')",
    ],
)
def test_a_failure_after_answers_raises_the_reason(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    acting(monkeypatch, code)
    with pytest.raises(ArmError, match="gone"):
        list(answers(PLAN, os.environ))


def test_closing_the_generator_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    acting(monkeypatch, "import os, time; print('{\"pid\": %d}' % os.getpid(), flush=True); time.sleep(60)")
    listening = answers(PLAN, os.environ)
    pid = next(listening)["pid"]
    listening.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_arm_ends_when_its_standard_input_is_closed() -> None:
    arm = subprocess.Popen(ARM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(1))
    # The machine's arm first imports torch, so its standard input is closed before it ends.
    out, _ = arm.communicate(replace(PLAN, arm="machine").to_json().encode() + b"\n", timeout=60)
    assert (out, arm.returncode) == (b"", 130)


def test_an_arms_own_error_reaches_the_user() -> None:
    with pytest.raises(ArmError, match=r"^There is no file or folder '/nowhere.gguf'\.$"):
        list(answers(PLAN, environment(1)))


def test_the_environment_has_none_of_the_users_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMCLI_ATTENTION", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "llmcli").mkdir()
    (tmp_path / "llmcli" / "config.toml").write_text("attention = true")
    env = environment(3)
    assert (env["OMP_NUM_THREADS"], "LLMCLI_ATTENTION" in env) == ("3", False)
    code = (
        "from llmcli.commands.shared.settings_file import CommandsWithSettings, default_map as m; "
        "assert not m(CommandsWithSettings((), {}))"
    )
    timed(python(code), {**env, "PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python looks into the working folder first")
def test_files_in_the_working_folder_are_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    env = environment(1)
    timed(python("import json"), env)
    del env["PYTHONSAFEPATH"]
    with pytest.raises(ArmError, match="not this one"):
        timed(python("import json"), env)
    # A program that runs from its source folder must still import its package.
    monkeypatch.chdir(Path(subprocesses.__file__).parents[3])
    assert "PYTHONSAFEPATH" not in environment(1)


@pytest.mark.skipif(not CAN_DROP, reason="this system cannot be asked to")
def test_dropping_a_file_from_the_page_cache_keeps_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    drop_from_page_cache([tmp_path / "a"])
    assert (tmp_path / "a").read_bytes() == b"x" * 10_000


def test_peak_memory_includes_freed_memory() -> None:
    before = peak_resident_bytes()
    size = before + (64 << 20)
    block = bytearray(size)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    del block
    assert peak_resident_bytes() >= size
