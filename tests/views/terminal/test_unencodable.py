"""Every character can be shown on every stream, whatever its encoding."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rich.table import Table

from llmcli.views.terminal import terminal
from llmcli.views.terminal.unencodable import HANDLER, ascii_substitute


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "shift_jis", "utf-8", "utf-16"])
def test_every_character_can_be_written_to_every_stream(encoding: str) -> None:
    # For the planes beyond the first, a range of each plane is enough for encodings other than ASCII.
    step = 0x1000 if encoding == "ascii" else 0x10000
    for start in (*range(0, 0x10000, 0x1000), *range(0x10000, sys.maxunicode + 1, step)):
        text = "".join(map(chr, range(start, start + 0x1000)))
        assert text.encode(encoding, errors=HANDLER).decode(encoding)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve café, “so”…", 'naive cafe, "so"...'),
        ("┌─┬┐│▁▂▃▄▅▆▇█", "+-++|_.-=+*%#"),
        ("a🙂b 世", "a?b ?"),
        ("x\u0301 👩\u200d👩", "x ??"),
        ("mod\udce8le \ud83d ␛[", "mod\\xe8le \\ud83d ^[["),
    ],
)
def test_substitutes_are_ascii(text: str, shown: str) -> None:
    assert text.encode("ascii", errors=HANDLER) == shown.encode()
    assert all(ascii_substitute(character).isascii() for character in text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_views_messages_and_data_are_written_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    terminal.prepare()
    table = Table("█ 🙂")
    table.add_row("mod\udce8le ▏")
    terminal.console_out().print(table)
    terminal.note("… mod\udce8le 世")
    terminal.write_line("🙂 mod\udce8le")
    out, err = (stream.buffer.getvalue() for stream in streams)
    assert b"mod\\xe8le" in out and b"mod\\xe8le ?" in err
    # Data in a pipe is UTF-8 in any locale.
    assert out.endswith("🙂 mod\\xe8le\n".encode())


@pytest.mark.parametrize(
    ("columns", "left"),
    [
        ("0", None),
        ("000", None),
        ("", None),
        ("abc", None),
        ("-5", None),
        ("1e3", None),
        ("²", None),
        ("1", "20"),
        ("100", "100"),
        (" 80 ", "80"),
        ("9" * 5000, "10000"),
        ("0" * 5000 + "90", "90"),
    ],
)
def test_nonsensical_terminal_sizes_are_ignored(
    monkeypatch: pytest.MonkeyPatch, columns: str, left: str | None
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    monkeypatch.setenv("TERMINAL_WIDTH", columns)
    monkeypatch.setattr(sys, "stdout", screen := io.StringIO())
    terminal.prepare()
    assert os.environ.get("COLUMNS") == left
    assert os.environ.get("TERMINAL_WIDTH") == left
    assert os.environ.get("LINES") == (left if left != "20" else "1")
    terminal.console_out().print("word")
    assert screen.getvalue() == "word\n"


def test_views_have_a_minimum_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console = terminal.console_out()
    assert console.width == terminal.LEAST_COLUMNS
    console.size = (50, 10)
    assert (console.width, console.height) == (50, 10)
