"""A merged checkpoint of any format equals the edited model, and the original is unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.edits.edit_file import Edit, LayerUpdate, edited
from llmcli.checkpoint.edits.merge import merge
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError
from tests.support.gguf.writer import write_gguf
from tests.support.models.native_files import mistral_params, native, write_safetensors
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import edit_config, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = [256, 70, 71, 72, 73]


def updates(folder: Path) -> list[Edit]:
    """Two edits of one block and one of another."""
    config = open_checkpoint(folder).config
    random = torch.Generator().manual_seed(0)
    return [Edit("m", "0", "p", "s", "t", (LayerUpdate(layer, *_vectors(config, random)),)) for layer in (0, 1, 1)]


def _vectors(config: Any, random: torch.Generator) -> list[torch.Tensor]:
    return [torch.randn(size, generator=random) * 0.3 for size in (config.intermediate_size, config.hidden_size)]


def folder_of(model: Any, folder: Path) -> Path:
    return save(model, folder)


def shards_of_bfloat16(model: Any, folder: Path) -> Path:
    return save(model.bfloat16(), folder, max_shard_size="40KB")


def gguf_file(model: Any, folder: Path) -> Path:
    folder.mkdir()
    return write_gguf(model, folder / "model.gguf")


def quantized_gguf(model: Any, folder: Path) -> Path:
    def kind(_name: str, values: np.ndarray) -> gguf.GGMLQuantizationType:
        whole = values.ndim == 2 and values.shape[-1] % 32 == 0
        return gguf.GGMLQuantizationType.Q8_0 if whole else gguf.GGMLQuantizationType.F32

    folder.mkdir()
    return write_gguf(model, folder / "model.gguf", kind_of=kind)


@pytest.mark.parametrize("write", [folder_of, shards_of_bfloat16, gguf_file, quantized_gguf])
@pytest.mark.parametrize("name", ["smollm", "qwen2", "gemma"])
def test_a_merged_model_equals_the_edited_one(name: str, write: Callable[[Any, Path], Path], tmp_path: Path) -> None:
    model_type, overrides = CASES[name]
    path = write(tiny_model(model_type, **overrides), tmp_path / "model")
    edits = updates(path)
    files = [path] if path.is_file() else sorted(path.iterdir())
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    merge(open_checkpoint(path), edits, tmp_path / "merged")
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == before
    # bfloat16 weights stay bfloat16, so changes are rounded.
    loose = 0.1 if write is shards_of_bfloat16 else 2e-5
    loaded = llmcli.load(path, dtype="float32", device="cpu")
    merged = llmcli.load(tmp_path / "merged", dtype="float32", device="cpu")
    with edited(loaded.model, edits):
        theirs = loaded.logits(IDS)
    ours = merged.logits(IDS)
    assert float((ours - theirs).norm() / theirs.norm()) < loose
    assert float((ours - loaded.logits(IDS)).norm() / theirs.norm()) > 0.1
    assert merged.tokenizer.encode("Ab ü") == loaded.tokenizer.encode("Ab ü")
    assert set(merged.stop_ids) == set(loaded.stop_ids)
    assert (merged.template is None) == (loaded.template is None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["merged", "model"]


def test_transformers_reads_a_merged_gguf_model(tmp_path: Path) -> None:
    import transformers

    path = gguf_file(tiny_model("llama"), tmp_path / "model")
    merge(open_checkpoint(path), updates(path), tmp_path / "merged", dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ours = llmcli.load(tmp_path / "merged", dtype="float32", device="cpu")
    with torch.inference_mode():
        torch.testing.assert_close(theirs(torch.tensor([IDS])).logits[0], ours.logits(IDS), rtol=1e-4, atol=1e-4)


def test_rope_divisors_are_kept_in_folders_and_refused_in_gguf_files(tmp_path: Path) -> None:
    model_type, overrides = CASES["llama 3.1"]
    model = tiny_model(model_type, **overrides)
    folder, file = save(model, tmp_path / "folder"), gguf_file(model, tmp_path / "file")
    merge(open_checkpoint(folder), updates(folder), tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged").config == open_checkpoint(folder).config
    with pytest.raises(UnsupportedModelError, match="cannot be expressed in a config"):
        merge(open_checkpoint(file), updates(file), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_models_without_a_hugging_face_config_are_refused(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=None)
    path = write_safetensors(tmp_path / "native", mistral_params(model), native(model))
    with pytest.raises(UnsupportedModelError, match="in the layout"):
        merge(open_checkpoint(path), updates(path), tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".*"))


def test_a_failed_merge_neither_overwrites_nor_leaves_files(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "model", "llama")
    config = json.loads((path / "config.json").read_text())
    with pytest.raises(LlmcliError, match="exists already"):
        merge(open_checkpoint(path), updates(path), path)
    assert json.loads((path / "config.json").read_text()) == config
    wrong = Edit("m", "0", "p", "s", "t", (LayerUpdate(7, torch.ones(48), torch.ones(32)),))
    with pytest.raises(CheckpointError, match="does not fit"):
        merge(open_checkpoint(path), [wrong], tmp_path / "merged")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_files_beside_the_weights_are_kept(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "model", "llama")
    edit_config(path, {"my_note": "kept"})
    (path / "LICENSE").write_text("free")
    (path / "pytorch_model.bin").write_bytes(b"old")
    merge(open_checkpoint(path), updates(path), tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["my_note"] == "kept"
    assert (tmp_path / "merged" / "LICENSE").exists() and not (tmp_path / "merged" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("name", ["README.md", "additional_chat_templates/a.jinja"])
def test_links_out_of_the_model_are_not_copied(name: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (folder / name).parent.mkdir(exist_ok=True)
    checkpoint = open_checkpoint(folder)
    (folder / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        merge(checkpoint, [], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
