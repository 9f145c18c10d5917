"""Edit files: they are read back unchanged, stack, are removed exactly, and fit one model only."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.edits import store
from llmcli.checkpoint.edits.edit_file import (
    Edit,
    LayerUpdate,
    apply_edits,
    edited,
    read_edit,
    read_edits,
    write_edit,
)
from llmcli.checkpoint.file_hashes import weights_hash
from llmcli.checkpoint.huggingface.safetensors_writer import Planned, write_safetensors
from llmcli.errors import CheckpointError, UnsupportedModelError, UsageError
from tests.support.models.tiny import SIZES
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = [256, 70, 71, 72, 73]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama")


def edit(layer: int = 1, *, seed: int = 0, model: str = "0" * 64, neurons: int = SIZES["intermediate_size"]) -> Edit:
    random = torch.Generator().manual_seed(seed)
    read, write = (torch.randn(size, generator=random) for size in (neurons, SIZES["hidden_size"]))
    return Edit("tiny", model, "Ulm — is in\n", "Ulm", "Bonn", (LayerUpdate(layer, read, write),))


def test_a_written_edit_is_read_back_and_is_valid_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    made = edit()
    path = tmp_path / "new" / "an.safetensors"
    write_edit(path, made)
    found = read_edit(path)
    assert (found.model, found.model_sha256, found.prompt) == (made.model, made.model_sha256, made.prompt)
    assert (found.subject, found.target, found.layers, found.source) == ("Ulm", "Bonn", (1,), path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "llmcli.edit/1"
        assert torch.equal(file.get_tensor("layers.1.read"), made.updates[0].read)
    assert torch.equal(found.updates[0].write, made.updates[0].write)


def test_an_edit_of_a_model_whose_name_is_not_utf_8_can_be_read(tmp_path: Path) -> None:
    write_edit(tmp_path / "an.safetensors", replace(edit(), model="mod\udce8le"))
    assert read_edit(tmp_path / "an.safetensors").model == "mod\\udce8le"


def test_equal_edits_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_edit(tmp_path / name, edit())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x02" + bytes(7) + b"{}", b"\xff" * 9])
def test_files_of_other_kinds_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "an.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not an edit, .*; give a file that llm edit has written"):
        read_edit(tmp_path / "an.safetensors")


def test_a_truncated_or_unreadable_edit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "an.safetensors"
    write_edit(path, edit())
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"an\.safetensors is not an edit, or not all of one"):
        read_edit(path)
    with pytest.raises(CheckpointError, match="nowhere could not be opened: No such file"):
        read_edit(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is not a regular file"):
        read_edit(tmp_path / "pipe")


def test_edits_stack_and_are_removed_exactly(folder: Path) -> None:
    loaded = llmcli.load(folder, dtype="float32", device="cpu")
    plain = loaded.logits(IDS)
    first, second = edit(seed=1), edit(2, seed=2)
    with edited(loaded.model, [first]):
        one = loaded.logits(IDS)
        with edited(loaded.model, [second, edit(seed=3)]):
            both = loaded.logits(IDS)
        assert torch.equal(loaded.logits(IDS), one)
    assert torch.equal(loaded.logits(IDS), plain)
    apply_edits(loaded.model, [edit(seed=3), second, first])
    torch.testing.assert_close(loaded.logits(IDS), both)
    assert not torch.allclose(one, plain) and not torch.allclose(both, one)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_all_decode_paths_compute_with_edits(folder: Path, quantize: str | None, tmp_path: Path) -> None:
    made = edit(model=weights_hash(open_checkpoint(folder)))
    write_edit(tmp_path / "an.safetensors", made)
    plain = llmcli.load(folder, dtype="float32", device="cpu", quantize=quantize)
    loaded = llmcli.load(folder, dtype="float32", device="cpu", quantize=quantize, edits=[tmp_path / "an.safetensors"])
    assert [each.target for each in loaded.edits] == ["Bonn"]
    theirs = loaded.logits(IDS)
    assert not torch.allclose(theirs, plain.logits(IDS), atol=0.1)
    step = loaded._step(1)
    ours = step.forward(IDS, loaded.model.new_cache(), only_last=False)
    assert float((ours - theirs).norm() / theirs.norm()) < (5e-6 if quantize is None else 5e-3)


def test_an_edit_for_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", "llama", seed=5)
    write_edit(tmp_path / "an.safetensors", edit(model=weights_hash(open_checkpoint(folder))))
    assert read_edits(open_checkpoint(folder), [tmp_path / "an.safetensors"])
    with pytest.raises(CheckpointError, match="was made for tiny"):
        llmcli.load(other, edits=[tmp_path / "an.safetensors"])


@pytest.mark.parametrize("wrong", [edit(9), edit(neurons=5)])
def test_an_edit_that_does_not_fit_is_refused(folder: Path, wrong: Edit) -> None:
    model = llmcli.load(folder, dtype="float32", device="cpu").model
    with pytest.raises(CheckpointError, match="does not fit"):
        apply_edits(model, [wrong])


@pytest.mark.parametrize(
    ("tensors", "about", "error"),
    [
        ({}, {"format": "llmcli.edit/2"}, UnsupportedModelError),
        ({}, {}, CheckpointError),
        ({}, None, CheckpointError),
        ({"layers.0.read": torch.ones(3)}, None, CheckpointError),
        ({"layers.0.read": torch.ones(3, 1), "layers.0.write": torch.ones(3)}, None, CheckpointError),
        ({"layers.0.read": torch.full((3,), torch.nan), "layers.0.write": torch.ones(3)}, None, CheckpointError),
        ({"weights": torch.ones(3)}, None, CheckpointError),
    ],
)
def test_an_incomplete_edit_is_refused(
    tensors: dict[str, torch.Tensor], about: dict[str, str] | None, error: type[Exception], tmp_path: Path
) -> None:
    whole = {"format": "llmcli.edit/1", "model": "m", "model_sha256": "0", "prompt": "p", "subject": "s", "target": "t"}
    planned = [Planned(name, value.dtype, tuple(value.shape)) for name, value in tensors.items()]
    with (tmp_path / "an.safetensors").open("wb") as file:
        for _ in write_safetensors(file, planned, tensors.values(), whole if about is None else about):
            pass
    with pytest.raises(error):
        read_edit(tmp_path / "an.safetensors")


def test_stored_edits_are_found_by_name() -> None:
    names = []
    for number in range(3):
        path = store.new_edit_file("Eiffel  Tower/..", "Ville de Köln")
        write_edit(path, edit())
        os.utime(path, ns=(number, number))
        names.append(path.stem)
    assert names == ["eiffel-tower-ville-de-köln", "eiffel-tower-ville-de-köln-2", "eiffel-tower-ville-de-köln-3"]
    assert [path.stem for path in store.edit_files()] == names[::-1]
    store.remove_edit(store.find_edit(names[1]))
    with pytest.raises(UsageError, match="there are eiffel"):
        store.find_edit(names[1])
