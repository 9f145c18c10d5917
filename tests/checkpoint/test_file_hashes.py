from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.file_hashes import file_hashes, hash_cache_path
from llmcli.errors import CheckpointError
from tests.support.models.tiny import save, tiny_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save(tiny_model("llama"), tmp_path / "model", max_shard_size="20KB")


def hashed(folder: Path) -> tuple[dict[str, str], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return file_hashes(open_checkpoint(folder), lambda *progress: told.append(progress)), told


def test_all_files_that_influence_replies_are_hashed(folder: Path) -> None:
    (folder / "README.md").write_text("no matter")
    found, told = hashed(folder)
    shards = {path.name for path in folder.glob("*.safetensors")}
    assert len(shards) > 1
    assert set(found) == {path.name for path in folder.iterdir()} - {"README.md"}
    for name, digest in found.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    total = sum((folder / name).stat().st_size for name in found)
    assert told[-1] == (total, total)


def test_unchanged_files_are_not_hashed_again(folder: Path) -> None:
    first, _ = hashed(folder)
    again, told = hashed(folder)
    assert (again, told) == (first, [])
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    changed, told = hashed(folder)
    assert [name for name in first if changed[name] != first[name]] == ["config.json"]
    assert told == [(config.stat().st_size, config.stat().st_size)]
    # The same size, but another modification time.
    data = bytearray(config.read_bytes())
    config.write_bytes(bytes(data.replace(b"  ", b"\n ", 1)))
    os.utime(config, ns=(1, 1))
    assert hashed(folder)[0]["config.json"] == hashlib.sha256(config.read_bytes()).hexdigest()


def test_a_missing_file_is_named(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    first = min(folder.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name} could not be read: No such file"):
        file_hashes(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"/x": 1}', "\udcff"])
def test_a_damaged_or_unwritable_cache_costs_only_time(folder: Path, content: str) -> None:
    path = hash_cache_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    first, told = hashed(folder)
    assert told and hashed(folder) == (first, [])
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    assert hashed(folder)[0] == first
