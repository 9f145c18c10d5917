"""Small files, whole or not at all, and the hashes of large ones."""

import hashlib
import os
from pathlib import Path

import pytest

from llmcli.files import replace_text, set_aside, sha256_of


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for text in ("one", "zwei: \u00fc"):
        replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
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


def test_what_is_set_aside_is_kept_beside_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    kept = []
    for text in ("first", "second"):
        path.write_text(text)
        kept.append(set_aside(path))
        assert not path.exists()
    assert [aside.read_text() for aside in kept] == ["first", "second"]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_the_hash_of_a_file_is_that_of_its_bytes_and_progress_ends_with_their_number(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    assert sha256_of(tmp_path / "file", told.append) == hashlib.sha256(data).hexdigest()
    assert told == sorted(told) and told[-1:] == [size] * (size > 0)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_file_that_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        sha256_of(tmp_path / "nowhere")
