"""A folder preloaded before torch is imported gives the same checkpoint as one opened later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.folder import read_folder
from tests.support.models.tiny_checkpoints import tiny_checkpoint


def test_a_preloaded_folder_equals_one_opened_later_and_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    plain, ahead = open_checkpoint(folder), read_folder(folder)
    monkeypatch.setattr("llmcli.checkpoint.checkpoint.read_folder", lambda _: pytest.fail("read again"))
    opened = open_checkpoint(folder, ahead)
    assert (opened.config, opened.tensors, opened.sources) == (plain.config, plain.tensors, plain.sources)


def test_faults_of_a_folder_are_reported_without_torch(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom pathlib import Path\n"
        "from llmcli.checkpoint.folder import read_folder\n"
        "from llmcli.errors import LlmcliError\n"
        "folder = Path(sys.argv[1])\n"
        "print(read_folder(folder).config.hidden_size)\n"
        "for name in ('model.safetensors', 'config.json'):\n"
        "    (folder / name).write_bytes(b'{')\n"
        "    try:\n        read_folder(folder)\n"
        "    except LlmcliError as error:\n        print(name in str(error))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr) == ("32\nTrue\nTrue\n", "")
