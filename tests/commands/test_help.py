from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.docs import pages
from llmcli.views.terminal import pager, terminal
from tests.support.terminal.cli import llm


def test_topics_are_listed_with_a_line_each() -> None:
    lines = llm("help").stdout.decode().splitlines()
    for topic, line in zip(pages.TOPICS, lines, strict=False):
        assert line.split() == [topic, *pages.summary(topic).split()]


@pytest.mark.parametrize("topic", pages.TOPICS)
def test_a_page_is_written_unchanged_into_a_pipe(topic: str) -> None:
    assert llm("help", topic).stdout.decode() == pages.page(topic)


def test_the_help_of_a_command_is_printed_with_the_pages_about_it() -> None:
    result = llm("help", "generate")
    assert b"--temperature" in result.stdout
    assert b"llm help usage" in result.stderr
    assert b"--ablate" in llm("help", "inspect", "heads").stdout
    assert b"merge" in llm("help", "edit").stdout


def test_a_word_is_searched_for() -> None:
    result = llm("help", "kobayashi").stdout.decode()
    assert "### attention" in result
    assert "*llm help inspect*" in result
    assert "## Flags" not in result


def test_a_flag_is_explained_by_its_entry_alone() -> None:
    result = llm("help", "--dry-base").stdout.decode().splitlines()
    assert result[:4] == ["*llm help usage*", "", "## Sampling", ""]
    assert len(result) == 7 and result[6].startswith("| `--dry-base B` |")
    assert result[4:6] == ["| flag | what it does |", "|---|---|"]
    assert llm("help", "--min-prob").stdout.startswith(b"*llm help structured-output*")
    # Of several commands.
    shared = llm("help", "-f").stdout.decode()
    assert "`--file FILE`, `-f`" in shared and "`--format FORMAT`, `-f`" in shared
    # No entry begins with it.
    assert "## Saved prompts" in llm("help", "--param key=value").stdout.decode()


def test_topics_are_wrapped_to_the_width_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(terminal, "size", lambda _stream: os.terminal_size((60, 10)))
    lines = llm("help").stdout.decode().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("usage  ") and lines[1].startswith(" " * 19)


def test_a_word_that_no_page_contains_is_a_usage_error() -> None:
    result = llm("help", "xyzzy", "plugh")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"llm: No page of the manual contains 'xyzzy plugh'.")


def test_titles_with_the_word_come_first() -> None:
    found = pages.search("sampling")
    assert found[0].title == "Sampling"
    assert len(found) > 1


def test_a_heading_in_a_code_block_is_text() -> None:
    assert all(section.title for topic in pages.TOPICS for section in pages.sections(topic))
    assert "".join(section.text for section in pages.sections("usage")).count("\n") > 100


def test_links_become_commands_on_a_terminal() -> None:
    text = "See [chat](chat.md#keys) and [above](#x), <!-- hidden -->here.\n![a](b.svg)\n"
    text += "```console not-run\n[a](chat.md)\n```"
    expected = "See chat (`llm help chat`) and above, here.\n\n```console\n[a](chat.md)\n```"
    assert pages.for_terminal(text) == expected


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Standard output as a terminal of 10 lines, and a pager that writes its input to a file."""
    shown = tmp_path / "shown"
    monkeypatch.setattr(terminal, "size", lambda _stream: os.terminal_size((80, 10)))
    monkeypatch.delenv("NO_PAGER", raising=False)
    monkeypatch.setenv("PAGER", f"{sys.executable} -c \"import sys; open('{shown}', 'w').write(sys.stdin.read())\"")
    return shown


@pytest.mark.parametrize(("count", "paged"), [(9, False), (10, True)])
def test_a_page_longer_than_the_screen_is_paged(
    count: int, paged: bool, screen: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pager.show(["é"] * count)
    assert (capfdbinary.readouterr().out == b"") == paged
    assert screen.exists() == paged
    if paged:
        assert screen.read_text() == "é\n" * count


@pytest.mark.parametrize(
    ("variable", "value"), [("NO_PAGER", "1"), ("PAGER", ""), ("PAGER", "/no/such/pager"), ("PAGER", "'")]
)
def test_without_a_pager_lines_are_written(
    variable: str, value: str, screen: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv(variable, value)
    pager.show(["a"] * 20)
    assert capfdbinary.readouterr().out == b"a\n" * 20
    assert not screen.exists()


def test_no_pager_is_a_flag(screen: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pager.show(["a"] * 20, paged=False)
    assert capfdbinary.readouterr().out == b"a\n" * 20


@pytest.mark.slow
def test_a_page_is_drawn_on_a_terminal() -> None:
    import pexpect

    child = pexpect.spawn(
        sys.executable,
        ["-m", "llmcli", "help", "chat"],
        env={**os.environ, "TERM": "xterm-256color", "NO_PAGER": "1"},
        dimensions=(20, 100),
        encoding="utf-8",
        timeout=60,
    )
    child.expect(pexpect.EOF)
    text = re.sub(r"\x1b\[[0-9;]*m", "", child.before)
    assert "\x1b[" in child.before
    assert "Commands in a chat" in text
    assert "## Commands" not in text
    assert "```" not in text


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llmcli.cli import main\nsys.argv = ['llm', 'help', *sys.argv[1:]]\n"
        "heavy = ('torch', 'rich.markdown')\n"
        "try:\n    main()\nfinally:\n    print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    for words in ([], ["usage"], ["kobayashi"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True
        )
        assert result.stderr.splitlines()[-1] == "[]"
