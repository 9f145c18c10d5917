"""The note below each view on how to read it, and the manual's paragraph above it (`--explain`)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from rich.text import Text

from llmcli.commands.inspect import COMMANDS
from llmcli.commands.shared import output
from llmcli.commands.shared.options.output import InspectViewOptions
from llmcli.docs import pages
from llmcli.views.terminal import terminal
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

EXPLAINED = (*COMMANDS, "trace")


class Screen(io.StringIO):
    """A stream whose `isatty` is true."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Present a view with a note on a stdout of the given kind; return the output on stdout and stderr."""

    def show(stdout: io.StringIO, *, quiet: bool = False, as_json: bool = False) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
        terminal.set_quiet(quiet)
        try:
            options = InspectViewOptions(as_json=as_json)
            output.present(
                Text("figures"), schema="x/1", value={}, output=options, note="how to read", explanation="what it is",
                title="x",
            )  # fmt: skip
        finally:
            terminal.set_quiet(False)
        return stdout.getvalue(), stderr.getvalue()

    return show


def test_the_note_follows_a_view_on_a_terminal(shown: Callable[..., tuple[str, str]]) -> None:
    assert shown(Screen()) == ("what it is\n\nfigures\n", "how to read\n")


def test_quiet_drops_the_note(shown: Callable[..., tuple[str, str]]) -> None:
    assert shown(Screen(), quiet=True) == ("what it is\n\nfigures\n", "")


def test_a_pipe_gets_no_note(shown: Callable[..., tuple[str, str]]) -> None:
    assert shown(io.StringIO()) == ("what it is\n\nfigures\n", "")


def test_json_has_no_note(shown: Callable[..., tuple[str, str]]) -> None:
    assert shown(Screen(), as_json=True) == ('{"schema": "x/1"}\n', "")


@pytest.mark.parametrize("command", EXPLAINED)
def test_the_manual_has_a_plain_paragraph_about_every_view(command: str) -> None:
    text = pages.paragraph("inspect", command)
    assert 40 < len(text.split()) < 120
    # `without "*"` is an argument; an asterisk anywhere else would be emphasis.
    assert not set("`*|#\n") & set(text.replace('"*"', ""))
    assert text.endswith(".")


def test_explain_prints_the_paragraph_above_the_view(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "m", "llama")
    html = tmp_path / "a.html"
    plain = llm("inspect", "lens", "abc", "-m", model).stdout.decode()
    explained = llm("inspect", "lens", "abc", "-m", model, "--explain", "--html", html).stdout.decode()
    paragraph, _, view = explained.partition("\n\n")
    assert " ".join(paragraph.split()) == pages.paragraph("inspect", "lens")
    assert view == plain
    assert "The logit lens applies" in html.read_text()
    json = llm("inspect", "lens", "abc", "-m", model, "--json")
    assert llm("inspect", "lens", "abc", "-m", model, "--json", "--explain").stdout == json.stdout


# Arguments for each view, and words of its note.
VIEWS: dict[str, tuple[list[object], str]] = {
    "attention": (["abc"], "parked on the first token"),
    "cost": ([], "2 per weight and token"),
    "embeddings": (["a"], "is the same direction"),
    "heads": (["abcd"], "much of its attention"),
    "lens": (["abc"], "expect noise"),
    "needle": (["--facts", 2, "--seeds", 2, "--depths", "0"], "At chance"),
    "neurons": (["abc"], "adds directly to this token's score"),
    "token": (["-1", "abc"], "--verify tests those"),
    "tokens": (["abc"], "is one token"),
    "trace": (["a b c", "--subject", "b"], "restoring this state"),
    "without": (["b", "a b c", "-n", 1], "later tokens cannot attend"),
}


@pytest.mark.parametrize("command", VIEWS)
def test_every_view_has_a_note_in_its_file(tmp_path: Path, command: str) -> None:
    model = tiny_checkpoint(tmp_path / "m", "llama", max_position_embeddings=512)
    given, words = VIEWS[command]
    names = [command] if command == "trace" else ["inspect", command]
    html = tmp_path / "a.html"
    result = llm(*names, *given, "-m", model, "--html", html, "--explain")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().split()[:3] == pages.paragraph("inspect", command).split()[:3]
    assert words in " ".join(unescape(html.read_text()).split())


def test_experts_have_a_note(tmp_path: Path) -> None:
    model_type, overrides = CASES["deepseek v3"]
    model = tiny_checkpoint(tmp_path / "m", model_type, **overrides)
    result = llm("inspect", "experts", "abc", "-m", model, "--html", tmp_path / "a.html", "--explain")
    assert result.stdout.decode().startswith("In a mixture-of-experts model")
    assert "the router uses all" in " ".join((tmp_path / "a.html").read_text().split())
