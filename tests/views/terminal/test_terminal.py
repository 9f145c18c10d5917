from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator

import pytest
from rich.columns import Columns
from rich.console import Group
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal import terminal
from llmcli.views.terminal.export import as_html, as_svg
from llmcli.views.terminal.progress import prefill_progress, progress_bar
from llmcli.views.terminal.sanitize import visible


class Screen(io.StringIO):
    """A stream whose `isatty` is true."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    yield
    terminal.configure(None)


def test_only_control_characters_are_replaced() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        shown = visible(character)
        dangerous = (
            (unicodedata.category(character) == "Cc" and character not in "\n\t")
            or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
            or 0xD800 <= code < 0xE000
        )
        assert (shown != character) == dangerous, hex(code)
        assert shown.replace("\n", "").replace("\t", "").isprintable() or not dangerous


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;eA==\x07", "␛]52;c;eA==␇"),
        ("a\rb\x08c\x7f\x00", "a␍b␈c␡␀"),
        ("\x9b2J", "\\u009b2J"),
        ("abc\u202edef", "abc\\u202edef"),
        ("tab\tline\n", "tab\tline\n"),
        ("👩‍👩‍👧 é [/INST] [link=x]", "👩‍👩‍👧 é [/INST] [link=x]"),
    ],
)
def test_ascii_substitutes(text: str, expected: str) -> None:
    assert visible(text) == expected == "".join(visible(character) for character in text)


@pytest.mark.parametrize(
    ("stream", "option", "environment", "styled"),
    [
        (Screen, None, {}, True),
        (io.StringIO, None, {}, False),
        (Screen, None, {"NO_COLOR": "1"}, False),
        (Screen, None, {"NO_COLOR": ""}, True),
        (Screen, None, {"TERM": "dumb"}, False),
        (Screen, False, {}, False),
        (Screen, True, {"NO_COLOR": "1"}, True),
        (io.StringIO, True, {}, True),
        (io.StringIO, None, {"FORCE_COLOR": "1"}, False),
    ],
)
def test_color_depends_on_terminal_and_environment(
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    option: bool | None,
    environment: dict[str, str],
    styled: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal.configure(option)
    for name, console in (("stdout", terminal.console_out), ("stderr", terminal.console_err)):
        screen = stream()
        monkeypatch.setattr(sys, name, screen)
        console().print(Text("word", style="bold red"))
        assert ("\x1b[" in screen.getvalue()) == styled
        assert screen.getvalue().endswith("word\n") or styled


def test_text_is_never_markup_or_emoji_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", screen := io.StringIO())
    terminal.console_out().print("[/b] :smile: [red]")
    assert screen.getvalue() == "[/b] :smile: [red]\n"


def test_absent_and_closed_streams_are_not_terminals() -> None:
    closed_text = io.TextIOWrapper(io.BytesIO())
    closed_text.close()
    assert not terminal.is_terminal(closed_text)
    assert not terminal.is_terminal(None)
    assert not terminal.is_terminal(io.StringIO())


@pytest.mark.parametrize(
    ("stream", "term", "drawn"), [(Screen, "xterm", True), (Screen, "dumb", False), (io.StringIO, "xterm", False)]
)
def test_progress_bars_need_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], term: str, drawn: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", screen := stream())
    with progress_bar(delay_s=0.0) as report:
        assert screen.getvalue() == ""
        report("fetching [b]\x1b]0;x\x07", 1, 10)
        assert not drawn or appears("fetching [b]␛]0;x␇", screen)
        report("fetching [b]\x1b]0;x\x07", 10, 10)
        report("unpacking", 3, None)
        assert not drawn or appears("unpacking", screen)
    text = screen.getvalue()
    assert "\x1b]0;" not in text
    assert drawn or text == ""
    assert not drawn or text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def appears(text: str, screen: io.StringIO) -> bool:
    """Whether `text` is drawn, by another thread, before long."""
    last = time.monotonic() + 30
    while text not in screen.getvalue() and time.monotonic() < last:
        time.sleep(0.01)
    return text in screen.getvalue()


def test_a_bar_for_a_whole_block_needs_no_report_and_stays_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with progress_bar("tracing", unit="states", delay_s=0.0) as report:
        assert appears("tracing", screen)
        report("tracing", 7, 2000)
        assert appears("7/2,000 states", screen)
        report("tracing", 2000, 2000)
        assert appears("2,000/2,000 states", screen)
        assert "\x1b[?25h" not in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_tokens_of_a_prompt_that_the_cache_has_are_not_counted_as_read() -> None:
    told: list[tuple[str, int, int | None]] = []
    read = prefill_progress(lambda what, done, total: told.append((what, done, total)))
    for done in (28, 540, 1052, 900, 1052):  # the prompt, and another that begins alike
        read(done, 1052)
    assert [(done, total) for _, done, total in told] == [(0, 1024), (512, 1024), (1024, 1024), (0, 152), (152, 152)]
    assert {what for what, _, _ in told} == {"Reading the prompt"}


@pytest.fixture
def set_quiet() -> Iterator[Callable[[bool], None]]:
    yield terminal.set_quiet
    terminal.set_quiet(False)


@pytest.mark.parametrize(("quiet", "patience"), [(False, 60.0), (True, 0.0)])
def test_short_or_quiet_work_draws_no_progress_bar(
    monkeypatch: pytest.MonkeyPatch, set_quiet: Callable[[bool], None], quiet: bool, patience: float
) -> None:
    set_quiet(quiet)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with progress_bar(unit="tokens", delay_s=patience) as report:
        report("reading", 1, 10)
        report("reading", 10, 10)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ([(0.4, 1), (1.5, 5), (2.0, 6)], "asking: about 28 s left (5 of 100 texts done).\n"),
        ([(2.0, 1), (3.0, 2)], "asking: about 3 min left (1 of 100 texts done).\n"),
        ([(200.0, 2)], "asking: about 3 h left (2 of 100 texts done).\n"),
        ([(0.1, 50), (1.5, 60)], ""),
        ([(0.5, 1), (0.9, 2)], ""),
    ],
)
def test_without_a_terminal_one_note_estimates_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
    set_quiet: Callable[[bool], None],
    reports: list[tuple[float, int]],
    told: str,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("llmcli.views.terminal.progress.time.monotonic", lambda: clock[0])
    for quiet, estimate, expected in ((False, True, told), (True, True, ""), (False, False, "")):
        set_quiet(quiet)
        clock[0] = 100.0
        monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
        with progress_bar(unit="texts", estimate=estimate) as report:
            for after, done in reports:
                clock[0] = 100 + after
                report("asking", done, 100)
        assert screen.getvalue() == expected


def test_quiet_hides_notes_and_nothing_else(
    capsys: pytest.CaptureFixture[str], set_quiet: Callable[[bool], None]
) -> None:
    set_quiet(True)
    terminal.note("a note")
    terminal.say("an answer")
    terminal.error("an error")
    assert capsys.readouterr().err == "an answer\nllm: an error\n"
    set_quiet(False)
    terminal.note("a note")
    assert capsys.readouterr().err == "a note\n"


def test_the_views_are_quick_to_import() -> None:
    script = (
        "import sys, llmcli.views.terminal.progress, llmcli.commands.pull\n"
        "print([name for name in ('rich.progress', 'torch', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_notes_wrap_at_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "  indented, and long enough for two lines: /a/path/that/is/much/longer/than/a/line/has/columns/indeed 你好"
    )
    monkeypatch.setattr(terminal, "size", lambda stream: os.terminal_size((40, 20)))
    for stream, expected in (
        (io.StringIO(), message),
        (Screen(), message.replace("two lines", "two\nlines").replace(": ", ":\n").replace(" 你", "\n你")),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.configure(False)
        terminal.note(message)
        assert stream.getvalue() == f"{expected}\n"


def test_a_terminal_without_a_size_counts_as_80_by_24() -> None:
    assert terminal.size(io.StringIO()) == (80, 24)


def test_the_console_replaces_control_characters_of_any_view(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "a\x1b]0;owned\x07b\x9b2Jc\u202e"
    table = Table(hostile, title=hostile, caption=Text(hostile))
    table.add_row(Panel(Markdown(hostile)), Text(hostile, style="bold"))
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.console_out().print(Group(table, Columns([hostile, hostile])), hostile)
    written = screen.getvalue()
    assert "\x1b[1m" in written and "owned" in written
    # Only the console's own styles are in the output.
    written = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert visible(written) == written
    assert not {"\x1b", "\x07", "\x9b"} & set(as_html(table) + as_svg(table, hostile))


@pytest.mark.parametrize("seen", [True, False])
def test_data_is_sanitized_on_a_terminal_and_exact_in_a_pipe(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"text": "\\\x9b2J\u202e\x7f\x1b"}, ensure_ascii=False)
    data = io.BytesIO()
    # A terminal gets text in its encoding; a pipe gets UTF-8 in any locale.
    stream = io.TextIOWrapper(data, encoding="utf-8" if seen else "ascii")
    monkeypatch.setattr(stream, "isatty", lambda: seen)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.write_line(line)
    written = data.getvalue().decode("utf-8")
    assert json.loads(written)["text"].replace("\u2421", "\x7f") == json.loads(line)["text"]
    assert written == f"{visible(line) if seen else line}\n"
