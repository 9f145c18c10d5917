"""Files of `torch.save`: the same model as from safetensors, and only weights are ever read from them."""

from __future__ import annotations

import gc
import io
import json
import os
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.huggingface.torch_pickles import read_torch_file
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Damaged and hostile files.
pytestmark = pytest.mark.slow

IDS = random_ids(20)
MATRIX = torch.arange(12.0).view(4, 3)


def write(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def logits(folder: Path) -> Tensor:
    return llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)


def shards(folder: Path, state: dict[str, Tensor], *, legacy: bool = False) -> None:
    names = list(state)
    weight_map: dict[str, str] = {}
    for index, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"pytorch_model-{index:05}-of-00002.bin"
        write(folder / name, {key: state[key] for key in part}, legacy=legacy)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


LAYOUTS: dict[str, Callable[[Path, dict[str, Tensor]], Any]] = {
    "one file": lambda folder, state: write(folder / "pytorch_model.bin", state),
    "one old file": lambda folder, state: write(folder / "pytorch_model.bin", state, legacy=True),
    "shards": shards,
    "old shards": lambda folder, state: shards(folder, state, legacy=True),
    "wrapped": lambda folder, state: write(folder / "pytorch_model.bin", {"state_dict": state, "epoch": 3}),
    "parameters": lambda folder, state: write(
        folder / "pytorch_model.bin", {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    ),
    "matrices stored in columns": lambda folder, state: write(
        folder / "pytorch_model.bin",
        {name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor for name, tensor in state.items()},
    ),
}


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        *(("llama 3.2, tied", layout) for layout in LAYOUTS),
        *((case, layout) for case in ("phi-3, window", "qwen3-moe") for layout in ("one old file", "shards")),
        *(("gpt-2", layout) for layout in ("one file", "matrices stored in columns")),
    ],
)
def test_logits_equal_those_from_safetensors(tmp_path: Path, case: str, layout: str) -> None:
    model_type, overrides = CASES[case]
    model = tiny_model(model_type, **overrides)
    folder = save(model, tmp_path)
    expected = logits(folder)
    parameters = open_checkpoint(folder).config
    (folder / "model.safetensors").unlink()
    LAYOUTS[layout](folder, model.state_dict())
    assert torch.equal(logits(folder), expected)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "PyTorch"
    # An embedding that is also the head is kept once.
    if layout in ("one file", "one old file", "wrapped"):
        assert checkpoint.config == parameters


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    folder = save(model, tmp_path)
    expected = logits(folder)
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin", model.state_dict())
    edit_config(folder, {"tie_word_embeddings": False})
    assert not open_checkpoint(folder).config.tie_embeddings
    assert torch.equal(logits(folder), expected)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"nothing")
    (folder / "original" / "params.json").write_text("{}")
    assert open_checkpoint(folder).format == "safetensors"


TENSORS: dict[str, Tensor] = {
    "matrix": MATRIX,
    "turned": MATRIX.T,
    "rows of it": MATRIX[1:3],
    "every other column": MATRIX[:, ::2],
    "vector": torch.arange(5).half(),
    "number": torch.tensor(3.0, dtype=torch.float64),
    "stack": torch.randn(2, 3, 4).bfloat16(),
    "none": torch.empty(0, 3),
    "whole numbers": torch.arange(6).view(2, 3),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_rows_of_shared_and_transposed_tensors(tmp_path: Path, legacy: bool) -> None:
    stored = read_torch_file(write(tmp_path / "x.bin", TENSORS, legacy=legacy))
    assert {name: tensor.shape for name, tensor in stored.items()} == {n: tuple(t.shape) for n, t in TENSORS.items()}
    assert stored["vector"].encoding == "F16"
    assert stored["rows of it"].nbytes == 24
    with TensorReader() as reader:
        for name, tensor in TENSORS.items():
            rows = tensor.reshape(tensor.shape[0] if tensor.dim() else 1, -1 if tensor.numel() else 3)
            for start in range(len(rows)):
                assert torch.equal(stored[name].read_rows(reader, start, len(rows)), rows[start:]), name


def test_old_files_are_loaded_one_at_a_time(tmp_path: Path) -> None:
    first = read_torch_file(write(tmp_path / "1.bin", {"a": MATRIX, "b": MATRIX + 1}, legacy=True))
    second = read_torch_file(write(tmp_path / "2.bin", {"c": MATRIX + 2}, legacy=True))
    with TensorReader() as reader:
        held = weakref.ref(first["a"].values(reader))
        first["b"].read_rows(reader, 0, 4)
        assert held() is not None
        assert torch.equal(second["c"].read_rows(reader, 0, 4), MATRIX + 2)
        gc.collect()
        assert held() is None
        write(tmp_path / "1.bin", {"b": MATRIX}, legacy=True)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            first["a"].read_rows(reader, 0, 4)


class Payload:
    """Runs a command when it is unpickled without protection."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Subclass(torch.Tensor):
    pass


def hostile(mark: Path) -> dict[str, tuple[object, str]]:
    """Contents that would create `mark` if executed, or that are not weights; with the expected error."""
    touch = f"open({str(mark)!r}, 'w').close()"
    return {
        "a command": ({"a": MATRIX, "b": Payload(os.system, f"touch {mark}")}, r"'posix\.system'"),
        "a command instead of weights": (Payload(os.system, f"touch {mark}"), r"'posix\.system'"),
        "code": ({"a": MATRIX, "b": Payload(exec, touch)}, "exec'"),
        "an expression": ({"a": Payload(eval, touch)}, "eval'"),
        "a way to attributes": ({"a": MATRIX, "b": Payload(getattr, "text", "upper")}, "getattr'"),
        "a module": (torch.nn.Linear(2, 2), r"'torch\.nn\.modules\.linear\.Linear'"),
        "a path": ({"a": MATRIX, "b": mark}, "Path'"),
        "an unknown class": ({"a": MATRIX, "b": Payload(Subclass)}, "Subclass'"),
        "a tensor of another class": ({"a": MATRIX.as_subclass(Subclass)}, "Subclass'"),
        "a list": ([MATRIX], "holds a list"),
        "a tensor alone": (MATRIX, "holds a Tensor"),
        "nothing": ({}, "no weights"),
        "numbers": ({"a": 1.5}, "no weights"),
        "two models": ({"model": {"a": MATRIX}, "state_dict": {"a": MATRIX}}, "several sets"),
        "a number among tensors": ({"a": MATRIX, "step": 3}, "'step'.* is a int, not a tensor"),
        "a tensor by number": ({"a": MATRIX, 3: MATRIX}, "'3'.*"),
        "repeated values": ({"a": torch.zeros(1).expand(1 << 40)}, r"\[1099511627776\].* fewer values"),
        "sparse": ({"a": MATRIX.to_sparse()}, "sparse"),
        "without values": ({"a": torch.empty(1 << 40, device="meta")}, "meta"),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", hostile(Path()))
def test_pickles_with_code_are_refused(tmp_path: Path, what: str, legacy: bool) -> None:
    mark = tmp_path / "mark"
    content, reason = hostile(mark)[what]
    path = write(tmp_path / "x.bin", content, legacy=legacy)
    with pytest.raises(CheckpointError, match=reason) as refusal:
        read_torch_file(path)
    assert not mark.exists()
    assert refusal.value.exit_code == 4
    assert str(path) in str(refusal.value)
    assert "weights_only" not in str(refusal.value) and "add_safe_globals" not in str(refusal.value)


def test_the_protection_cannot_be_switched_off_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "mark"
    with pytest.raises(UnsupportedModelError, match=r"posix\.system"):
        read_torch_file(write(tmp_path / "x.bin", {"a": Payload(os.system, f"touch {mark}")}))
    assert not mark.exists()


def content(tensors: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive(
    change: Callable[[str, bytes], bytes] = lambda name, data: data,
    compression: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
) -> bytes:
    """The file with a vector of 1111 zeros, rewritten."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content({"a": torch.zeros(1111)}))) as old,
        zipfile.ZipFile(out, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        new.comment = comment
    return out.getvalue()


def larger(data: bytes, size: int) -> bytes:
    """The pickle with every 1111 replaced."""
    return data.replace(b"M\x57\x04", b"\x8a\x06" + size.to_bytes(6, "little"))


def scripted() -> bytes:
    """A file with the outer structure of a TorchScript archive."""
    out = io.BytesIO(archive())
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(f"{file.namelist()[0].split('/')[0]}/constants.pkl", b"\x80\x02).")
    return out.getvalue()


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "a web page": (lambda: b"<!DOCTYPE html><html>", "web page"),
    "a GGUF file": (lambda: b"GGUF\3\0\0\0", "GGUF"),
    "noise": (lambda: bytes(range(1, 100)), "not a file that PyTorch wrote"),
    "half an archive": (lambda: content({"a": MATRIX})[:700], "table of contents"),
    "no file within": (lambda: b"PK\5\6" + bytes(18), "not a file that PyTorch wrote"),
    "a ZIP of something else": (
        lambda: archive(lambda name, data: b"" if name.endswith("data.pkl") else data),
        "not a valid",
    ),
    "half an old file": (lambda: content({"a": MATRIX}, legacy=True)[:150], "not a valid"),
    "an old file without its last values": (lambda: content({"a": MATRIX}, legacy=True)[:-9], "not a valid"),
    "compressed": (lambda: archive(compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a remark behind": (lambda: archive(comment=b"x"), "table of contents"),
    "a table of contents of 4 GB": (
        lambda: archive()[:-10] + b"\xf0\xff\xff\xff" + archive()[-6:],
        "table of contents",
    ),
    "more values than there are": (
        lambda: archive(lambda name, data: larger(data, 1 << 42)),
        "not a valid",
    ),
    "more values than there are, old": (
        lambda: larger(content({"a": torch.zeros(1111)}, legacy=True), 1 << 42),
        "not a valid",
    ),
    "fewer than nothing": (
        lambda: archive(lambda name, data: larger(data, (1 << 48) - 1)),
        "not a valid",
    ),
    "TorchScript": (scripted, "TorchScript archive"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_are_refused_by_name(tmp_path: Path, what: str) -> None:
    make, reason = DAMAGED[what]
    path = tmp_path / "x.bin"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=reason) as refusal:
        read_torch_file(path)
    assert len(str(refusal.value)) < 600


def test_a_pickle_larger_than_any_list_of_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"data\.pkl' in it has \d+ bytes"):
        read_torch_file(write(tmp_path / "x.bin", {"a": MATRIX}), largest_pickle=100)


def test_pipes_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_torch_file(tmp_path / "x.bin")


GOOD = {
    legacy: content({"a": MATRIX, "b": MATRIX.T, "c": torch.zeros(3).half()}, legacy=legacy) for legacy in (False, True)
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    legacy=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_random_damage_is_an_error_or_harmless(
    tmp_path: Path, legacy: bool, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(GOOD[legacy])
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "x.bin"
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    try:
        stored = read_torch_file(path)
        with TensorReader() as reader:
            for tensor in stored.values():
                tensor.read_rows(reader, 0, tensor.shape[0] if tensor.shape else 1)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_pytorch_versions_with_a_known_flaw_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.bin", {"a": MATRIX})
    for version in ("2.10.0", "2.13.0+cpu"):
        monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
        read_torch_file(path)
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.9.1"))
    with pytest.raises(UnsupportedModelError, match=r"2\.9\.1.*install PyTorch 2\.10"):
        read_torch_file(path)


def spoiled_index(folder: Path, **changes: str) -> None:
    index = folder / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | changes}))


NAME = "model.norm.weight"
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing shard": (lambda f: (f / "pytorch_model-00002-of-00002.bin").unlink(), "lacks 1 of 2 weight files"),
    "a way out": (lambda f: spoiled_index(f, **{NAME: "../pytorch_model-00001-of-00002.bin"}), "not a bin file"),
    "another place": (lambda f: spoiled_index(f, **{NAME: "/tmp/x.bin"}), "not a bin file"),
    "another kind": (lambda f: spoiled_index(f, **{NAME: "config.json"}), "not a bin file"),
    "a tensor that is not there": (
        lambda f: spoiled_index(f, new="pytorch_model-00001-of-00002.bin"),
        "'new'.* not there",
    ),
    "a tensor in both": (
        lambda f: write(f / "pytorch_model-00002-of-00002.bin", {"lm_head.weight": MATRIX, NAME: MATRIX}),
        "is in both",
    ),
    "no map": (lambda f: (f / "pytorch_model.bin.index.json").write_text("{}"), "weight_map"),
    "quantized weights": (
        lambda f: edit_config(f, {"quantization_config": {"quant_method": "gptq"}}),
        "quantized weights in PyTorch files",
    ),
    "quantized weights that are not declared": (
        lambda f: shards(f, {"model.layers.0.mlp.up_proj.qweight": MATRIX, "b": MATRIX}),
        "quantized weights in PyTorch files",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path, what: str) -> None:
    spoil, reason = SPOILED[what]
    model = tiny_model("llama")
    folder = save(model, tmp_path)
    (folder / "model.safetensors").unlink()
    shards(folder, model.state_dict())
    spoil(folder)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(folder)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    model = tiny_model("llama")
    folder = save(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").symlink_to(write(tmp_path / "elsewhere.bin", model.state_dict()))
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        open_checkpoint(folder)


def test_a_folder_with_only_an_adapter_is_refused(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    with pytest.raises(UnsupportedModelError, match=r"adapter \(LoRA\) for the model 'owner/base'.*merge"):
        open_checkpoint(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).format == "safetensors"
