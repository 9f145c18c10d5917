"""A GGUF file preloaded before torch is imported gives the same checkpoint as one opened later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.preload import preload_gguf
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf


def test_a_preloaded_checkpoint_equals_one_opened_later(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    plain, ahead = open_checkpoint(path), open_checkpoint(path, preload_gguf(path))
    assert ahead.config == plain.config
    assert ahead.tensors == plain.tensors
    assert ahead.sources == plain.sources
    ours, theirs = ahead.read_text_parts(), plain.read_text_parts()
    text = "Hello, 世界 <s>"
    assert ours.tokenizer.encode(text) == theirs.tokenizer.encode(text)
    assert ours.tokenizer.vocab_size == theirs.tokenizer.vocab_size
    assert (ours.templates, ours.stop_ids) == (theirs.templates, theirs.stop_ids)
    assert ahead.read_text_parts() is ours


def test_preloading_parses_the_header_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    ahead = preload_gguf(path)
    monkeypatch.setattr("llmcli.checkpoint.gguf.header.parse_header", lambda _: pytest.fail("parsed again"))
    assert open_checkpoint(path, ahead).format == "GGUF"


def test_a_faulty_tokenizer_raises_only_when_it_is_used(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf", changes={"tokenizer.ggml.model": "t5"})
    checkpoint = open_checkpoint(path, preload_gguf(path))
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="'t5'"):
            checkpoint.read_text_parts()


def test_a_shard_of_a_split_file_is_not_preloaded(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf", largest_part=10)
    assert preload_gguf(path) is None
    assert open_checkpoint(path, None).read_text_parts().tokenizer.encode("a")


def test_a_damaged_header_raises_at_once(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="Download it again"):
        preload_gguf(path)


def test_preloading_does_not_import_torch(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from llmcli.checkpoint.preload import preload_gguf\n"
        "ahead = preload_gguf(Path(sys.argv[1]))\n"
        "print(ahead.text.result().tokenizer.vocab_size > 0, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr) == ("True False\n", "")
