"""Chat templates in files that a user names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmcli.checkpoint.chat_template_file import check_template_file, read_template_file

SOURCE = "é {{ messages[0].content }}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_selects_the_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(SOURCE.encode(encoding))
    assert read_template_file(str(file)) == SOURCE


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="pipes have no names here")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, SOURCE.encode())
        os.close(writing)
        name = f"/dev/fd/{reading}"
        check_template_file(name)
        assert [read_template_file(name) for _ in range(2)] == [SOURCE, SOURCE]
    finally:
        os.close(reading)


def test_a_regular_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    for source in (SOURCE, SOURCE * 2):
        file.write_text(source, encoding="utf-8")
        assert read_template_file(str(file)) == source
