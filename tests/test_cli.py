"""The error boundary: messages for crashes of the program."""

from __future__ import annotations

import signal

import pytest

from llmcli import __version__, cli
from tests.support.terminal.cli import llm

SECRET = "hf_CanaryCanary"


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, AssertionError, RecursionError, UnicodeEncodeError])
def test_a_crash_prints_one_line_without_user_input(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(prompt: str, *_: object, **__: object) -> str:
        if kind is UnicodeEncodeError:
            return prompt + "\ud800".encode().decode()
        raise kind(f"{prompt} {SECRET}")

    monkeypatch.setattr("llmcli.commands.generate.request.read_prompt", crash)
    env = {"HF_TOKEN": SECRET, "LLMCLI_DEBUG": "0"}
    result = llm("generate", "my private words", env=env)
    (line,) = result.stderr.decode().splitlines()
    assert (result.returncode, result.stdout) == (1, b"")
    assert line.startswith(f"llm: This is a bug in llmcli {__version__}: {kind.__name__} at test_cli.py:")
    assert "LLMCLI_DEBUG=1" in line and "report" in line
    assert "private" not in line and SECRET not in line
    shown = llm("generate", "my private words", env={"LLMCLI_DEBUG": "1"}).stderr.decode()
    assert shown.startswith("Traceback") and "in crash" in shown


def test_an_error_that_sigterm_became_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(prompt: str, *_: object, **__: object) -> str:
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:
            raise RuntimeError("from compiled code") from None
        return prompt

    monkeypatch.setattr("llmcli.commands.generate.request.read_prompt", crash)
    monkeypatch.setattr(cli, "_terminated", False)
    result = llm("generate", "Hi")
    assert (result.returncode, result.stdout, result.stderr) == (143, b"", b"")


def test_running_out_of_memory_anywhere_exits_with_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(prompt: str, *_: object, **__: object) -> str:
        raise MemoryError

    monkeypatch.setattr("llmcli.commands.generate.request.read_prompt", crash)
    result = llm("generate", "Hi")
    assert (result.returncode, result.stdout) == (5, b"")
    assert b"not enough memory" in result.stderr


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("show --help", ["show"]),
        ("show --bogus", ["show"]),
        ("inspect tokens --help", ["inspect tokens"]),
        ("inspect tokens --bogus", ["inspect tokens"]),
        ("inspect token -1 --bogus", ["inspect token"]),
        ("edit merge --help", ["edit merge"]),
        ("config score --json", ["score", "config"]),
        ("config score --bogus", ["score", "config"]),
        ("config doctor", ["doctor", "config"]),
        ("config generate -m /nowhere --json", ["generate", "config"]),
        ("config -m /nowhere", None),
        ("config inspect tokens", None),
        ("config bogus", None),
        ("config config", None),
        ("inspect", None),
        ("inspect --help", None),
        ("inspect bogus", None),
        ("bogus", None),
        ("", None),
    ],
)
def test_only_the_requested_command_is_built(
    words: str, made: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = cli._needed(words.split())
    if made is None:
        assert needed is cli.app
    else:
        names = [command.name for command in needed.registered_commands]
        for group in needed.registered_groups:
            assert group.typer_instance is not None
            own = group.typer_instance.registered_commands
            names += [f"{group.typer_instance.info.name} {command.name}" for command in own]
        assert names == made
    answered = llm(*words.split())
    monkeypatch.setattr(cli, "_needed", lambda asked: cli.app)
    assert llm(*words.split()) == answered
