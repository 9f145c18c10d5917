"""Files of a model's folder: none is read that lies outside it, and shards are those that the folder's index names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from llmcli.checkpoint.inside import inside
from llmcli.checkpoint.json_files import read_json_object
from llmcli.checkpoint.weight_files import shown
from llmcli.errors import CheckpointError

# `pytorch_model.bin`, as older versions of transformers write it.
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# Mistral's own releases, and Meta's.
_SERIES = re.compile(r"consolidated(?:-(\d{5})-of-(\d{5}))?\.safetensors")
_SPLIT = re.compile(r"consolidated\.(\d{2})\.pth")


class InFile(Protocol):
    """A tensor that knows which file it is in."""

    @property
    def path(self) -> Path:
        """The file."""


T = TypeVar("T", bound=InFile)


def file_names(folder: Path) -> list[str]:
    """Everything directly in a folder, in order; `CheckpointError` if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} could not be read: {error.strerror}.") from None


def native_files(folder: Path) -> list[str]:
    """The names of the weight files of a release of Mistral's or Meta's own, in order: safetensors, else pickles.

    Raises:
        CheckpointError: some of a series are missing.
    """
    names = file_names(folder)
    if "consolidated.safetensors" in names:
        return ["consolidated.safetensors"]
    for pattern, first in ((_SERIES, 1), (_SPLIT, 0)):
        matches = [match for match in map(pattern.fullmatch, names) if match is not None]
        if matches:
            count = int(matches[0][2]) if pattern is _SERIES else len(matches)
            if [int(match[1]) for match in matches] != list(range(first, first + count)):
                raise CheckpointError(
                    f"{folder} lacks some of the weight files beside {matches[-1][0]}; download the rest."
                )
            return [match[0] for match in matches]
    return []


def has_torch_weights(folder: Path) -> bool:
    """The folder holds `pytorch_model.bin`, or the index of its shards."""
    return (folder / TORCH_INDEX).exists() or (folder / TORCH_SINGLE).exists()


def read_indexed(folder: Path, index_name: str, read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """The tensors of all shards that an index such as `model.safetensors.index.json` names; `read` reads one shard.

    Raises:
        CheckpointError: a shard or a tensor is missing, is there twice, or lies outside the folder.
    """
    index = folder / index_name
    suffix = PurePath(index_name.removesuffix(".index.json")).suffix
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that names the files of the tensors.")
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(suffix) or any(char in name for char in "/\\\0"):
            raise CheckpointError(f"{index} names {shown(str(name))}, which is not a {suffix[1:]} file of its folder.")
    shards = sorted(set(weight_map.values()))
    missing = [shown(name) for name in shards if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files, such as {missing[0]}; download the rest."
        )
    tensors = read_together(folder, shards, read)
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise CheckpointError(f"{index} says that tensor {shown(name)} is in {shown(shard)}, but it is not there.")
    return tensors


def read_together(folder: Path, names: list[str], read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """The tensors of several files of which each holds some; `CheckpointError` if one is in two of them."""
    tensors: dict[str, T] = {}
    for shard in names:
        for name, tensor in read(inside(folder, shard)).items():
            if name in tensors:
                raise CheckpointError(f"Tensor {shown(name)} is in both {tensors[name].path} and {tensor.path}.")
            tensors[name] = tensor
    return tensors
