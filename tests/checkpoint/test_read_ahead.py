from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmcli.checkpoint.read_ahead import load_torch_ahead, read_ahead


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_weights_are_announced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_cannot_be_read_is_left_to_the_loader(tmp_path: Path) -> None:
    read_ahead(tmp_path / "missing.gguf")
    (tmp_path / "a.gguf").mkdir()
    read_ahead(tmp_path)
    fifo = tmp_path / "b.safetensors"
    os.mkfifo(fifo)
    read_ahead(fifo)


@pytest.mark.skipif(sys.platform != "linux", reason="only there")
def test_torch_finds_its_libraries_loaded_and_works() -> None:
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from llmcli.checkpoint.read_ahead import load_torch_ahead\n"
        "load_torch_ahead()\n"
        "for thread in threading.enumerate()[1:]:\n    thread.join()\n"
        "print('torch' in sys.modules, 'libtorch_cpu' in Path('/proc/self/maps').read_text())\n"
        "import torch\n"
        "print((torch.ones(50, 50) @ torch.ones(50, 50)).sum().item())\n"
        "load_torch_ahead()\nprint(threading.active_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "False True\n125000.0\n1\n", result.stderr


def test_without_torch_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    for answer in (None, importlib.machinery.ModuleSpec("torch", None)):
        monkeypatch.setattr("importlib.util.find_spec", lambda _, answer=answer: answer)
        before = threading.active_count()
        load_torch_ahead()
        assert threading.active_count() == before
