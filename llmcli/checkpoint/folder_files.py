"""Files of a model's folder: none is read that lies outside it, and shards are those that the folder's index names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from llmcli.checkpoint.inside import inside
from llmcli.checkpoint.json_files import read_json_object
from llmcli.checkpoint.weight_files import shown
from llmcli.errors import CheckpointError


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
