"""Valid tiny models, and ways to damage them."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import save, tiny_model

ESCAPE = "\x1b]0;owned\x07"
HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

Change = Callable[[Path], object]
"""A function that damages a valid folder or file."""


@cache
def _sound_model() -> Any:
    return tiny_model("llama", num_hidden_layers=1)


@cache
def _saved() -> Path:
    """The model as a folder and as a file, to be copied: writing it takes ten times as long."""
    place = Path(tempfile.mkdtemp(prefix="llmcli-faults-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    save(_sound_model(), place / "folder")
    write_gguf(_sound_model(), place / "model.gguf")
    return place


def sound_folder(place: Path) -> Path:
    """A new Hugging Face folder of a model that works."""
    return shutil.copytree(_saved() / "folder", place)


def sound_gguf(path: Path, **changes: Any) -> Path:
    """A new GGUF file of the same model; `changes` to its metadata, with `__` for dots."""
    if not changes:
        return Path(shutil.copyfile(_saved() / "model.gguf", path))
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return write_gguf(_sound_model(), path, changes=named)


def text(value: str | bytes) -> bytes:
    """A string as GGUF has it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def header(*pairs: bytes, tensors: int = 0, keys: int | None = None, version: int = 3, more: bytes = b"") -> bytes:
    """The beginning of a GGUF file."""
    count = len(pairs) if keys is None else keys
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + b"".join(pairs) + more


def pair(key: str, kind: int, value: bytes) -> bytes:
    """One metadata key with its value."""
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    """One metadata key with an array."""
    return struct.pack("<IQ", kind, count) + content


def entry(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's description."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def content(data: bytes) -> Change:
    """Replace the file by these bytes."""
    return lambda path: path.write_bytes(data)


def cut(count: int) -> Change:
    """Cut off the last bytes."""
    return lambda path: os.truncate(path, path.stat().st_size - count)


def named(name: str, data: bytes | str) -> Change:
    """Write a file of the folder with this content."""
    raw = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / name).write_bytes(raw)


def missing(name: str) -> Change:
    """Delete a file of the folder."""
    return lambda folder: (folder / name).unlink()


def as_json(name: str, **changes: object) -> Change:
    """Change keys of a JSON file of the folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def config(**changes: object) -> Change:
    """Change keys of `config.json`."""
    return as_json("config.json", **changes)


def template(source: str) -> Change:
    """The chat template."""
    return named("chat_template.jinja", source)


def weights(edit: Callable[[dict[str, Any], bytearray], object]) -> Change:
    """Apply `edit` to the header and data of `model.safetensors`."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        names, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
        edit(names, data)
        written = json.dumps(names).encode()
        path.write_bytes(len(written).to_bytes(8, "little") + written + data)

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Apply `edit` to the tensors of `model.safetensors`."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        found = load_file(path)
        edit(found)
        save_file(found, path, metadata={"format": "pt"})

    return change


def index(weight_map: object, *, keep: bool = True) -> Change:
    """Write an index beside the weights, which become the shard `a.safetensors` if they are kept."""

    def change(folder: Path) -> None:
        if keep:
            (folder / "model.safetensors").rename(folder / "a.safetensors")
        else:
            (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def linked(name: str, target: str) -> Change:
    """Replace a file of the folder by a link to a copy outside of it."""

    def change(folder: Path) -> None:
        place = folder / target
        if (folder / name).exists() and not place.exists() and "/dev" not in target:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / name, place)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(place if target.startswith("/") else target)

    return change
