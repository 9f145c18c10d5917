from __future__ import annotations

import gc
from pathlib import Path

import pytest

from llmcli.commands.shared.load_model import find_checkpoint
from llmcli.startup.garbage_collection import gc_disabled
from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny_checkpoints import tiny_checkpoint


def test_garbage_collection_is_enabled_again_after_loading() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), gc_disabled():
        assert not gc.isenabled()
        with gc_disabled():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    assert gc.get_freeze_count()


def test_find_checkpoint_opens_files_and_folders(tmp_path: Path) -> None:
    file = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    folder = tiny_checkpoint(tmp_path / "folder", "llama")
    for path, format_ in ((file, "GGUF"), (folder, "safetensors")):
        checkpoint = find_checkpoint(str(path))
        assert (checkpoint.path, checkpoint.format) == (path, format_)
        assert gc.isenabled()
