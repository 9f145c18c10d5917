"""The models in a folder of GGUF files: shards belong together, and companions are ignored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.hub import resolve, store
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import tiny_model


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one split model."""
    folder = tmp_path_factory.mktemp("split")
    write_gguf(tiny_model("llama"), folder / "model.gguf", largest_part=12)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    write_gguf(tiny_model("llama"), folder / "model-Q8_0.gguf")
    return folder


def companion(path: Path, architecture: str, kind: str | None = None) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    if kind is not None:
        writer.add_type(kind)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_folder_with_one_split_model(split: Path, tmp_path: Path) -> None:
    parts = sorted(path.name for path in split.iterdir())
    assert len(parts) > 2
    assert open_checkpoint(split).path.name == parts[0]
    assert resolve.resolve(str(split / parts[1])) == split / parts[0]
    folder = Path(shutil.copytree(split, tmp_path / "m"))
    (folder / parts[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"only some parts of a GGUF model: {parts[1]} is missing; download"):
        open_checkpoint(folder)
    (folder / parts[0]).unlink()
    with pytest.raises(CheckpointError, match=rf"{parts[0]} is missing"):
        open_checkpoint(resolve.resolve(str(folder / parts[2])))


@pytest.mark.parametrize(
    ("name", "architecture", "kind"),
    [
        ("mmproj-F16.gguf", "clip", None),
        ("a-vision-part.gguf", "clip", "mmproj"),
        ("lora.gguf", "llama", "adapter"),
        ("model.imatrix.gguf", "llama", "imatrix"),
        ("a-list.gguf", "llama", "imatrix"),
        ("direction.gguf", "controlvector", None),
    ],
)
def test_companion_files_are_ignored(
    single: Path, tmp_path: Path, name: str, architecture: str, kind: str | None
) -> None:
    folder = Path(shutil.copytree(single, tmp_path / "m"))
    companion(folder / name, architecture, kind)
    assert open_checkpoint(folder).path == folder / "model-Q8_0.gguf"
    with pytest.raises(UnsupportedModelError, match="belongs to a model but is not one"):
        open_checkpoint(folder / name)
    (folder / "model-Q8_0.gguf").unlink()
    with pytest.raises(UnsupportedModelError, match="only GGUF files that go with a model"):
        open_checkpoint(folder)


def test_links_and_hidden_files_do_not_count_as_models(single: Path, tmp_path: Path) -> None:
    shutil.copyfile(single / "model-Q8_0.gguf", tmp_path / "model-Q8_0.gguf")
    (tmp_path / "latest.gguf").symlink_to("model-Q8_0.gguf")
    # As macOS creates them on foreign file systems.
    (tmp_path / "._model-Q8_0.gguf").write_bytes(b"\0\5\x16\7")
    assert open_checkpoint(tmp_path).path.resolve() == tmp_path.resolve() / "model-Q8_0.gguf"


def test_several_quantizations_must_be_chosen_from(single: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(single, tmp_path / "m"))
    shutil.copy(folder / "model-Q8_0.gguf", folder / "model-Q4_K_M.gguf")
    companion(folder / "mmproj-F16.gguf", "clip")
    with pytest.raises(UnsupportedModelError) as caught:
        open_checkpoint(folder)
    assert str(caught.value) == (
        f"{folder} holds 2 GGUF models; name the file to use: {folder}/model-Q4_K_M.gguf, {folder}/model-Q8_0.gguf."
    )


def test_a_configuration_beside_a_gguf_file_does_not_hide_it(single: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(single, tmp_path / "m"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert open_checkpoint(folder).format == "GGUF"
    (folder / "adapter_config.json").write_text("{}")
    assert open_checkpoint(resolve.resolve(str(folder / "config.json"))).format == "GGUF"


def test_the_error_for_a_folder_of_folders_names_a_file_inside(split: Path, tmp_path: Path) -> None:
    shutil.copytree(split, tmp_path / "Q8_0")
    with pytest.raises(CheckpointError, match=r"its folders do; name the file, such as .*Q8_0/model-00001-of"):
        open_checkpoint(tmp_path)


def test_a_split_model_is_one_entry_of_the_store(
    split: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for path in (*split.iterdir(), *single.iterdir()):
        store.store_folder().mkdir(parents=True, exist_ok=True)
        shutil.copy(path, store.store_folder() / path.name)
    companion(store.store_folder() / "mmproj.gguf", "clip")
    shutil.copy(single / "model-Q8_0.gguf", store.store_folder() / "other-00001-of-00002.gguf")
    parts = sorted(path.name for path in split.iterdir())
    assert [entry.name for entry in store.entries()] == [parts[0], "model-Q8_0.gguf"]
    entry = store.find(parts[1])
    assert entry is not None and entry.path.name == parts[0]
    assert entry.bytes == sum(path.stat().st_size for path in split.iterdir())
    store.remove(parts[0])
    assert [entry.name for entry in store.entries()] == ["model-Q8_0.gguf"]
    assert not list(store.store_folder().glob("model-0000*"))
