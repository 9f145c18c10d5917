"""Atomic writing of small files, and hashes of large ones."""

import hashlib
import os
from pathlib import Path

import pytest

from llmcli.files import replace_text, set_aside, sha256_of


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for text in ("one", "zwei: \u00fc"):
        replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_kept_and_devices_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    replace_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_text(tmp_path / "pipe", "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_files_set_aside_do_not_replace_each_other(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    kept = []
    for text in ("first", "second"):
        path.write_text(text)
        kept.append(set_aside(path))
        assert not path.exists()
    assert [aside.read_text() for aside in kept] == ["first", "second"]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_hash_reports_progress_up_to_the_size_of_the_file(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    assert sha256_of(tmp_path / "file", told.append) == hashlib.sha256(data).hexdigest()
    assert told == sorted(told) and told[-1:] == [size] * (size > 0)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_hashing_an_unreadable_file_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        sha256_of(tmp_path / "nowhere")
