from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmcli.checkpoint.files.prefetch import read_ahead


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_only_weight_files_are_prefetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.safetensors", "config.json", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"x")
    single = tmp_path / "model.gguf"
    announced: list[str] = []

    def advise(descriptor: int, _start: int, _length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        announced.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    read_ahead(tmp_path)
    assert announced == ["model.safetensors", "pytorch_model.bin"]
    single.write_bytes(b"x")
    read_ahead(single)
    assert announced[2:] == ["model.gguf"]
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    read_ahead(single)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_unreadable_files_are_ignored(tmp_path: Path) -> None:
    read_ahead(tmp_path / "missing.gguf")
    (tmp_path / "a.gguf").mkdir()
    read_ahead(tmp_path)
    fifo = tmp_path / "b.safetensors"
    os.mkfifo(fifo)
    read_ahead(fifo)
