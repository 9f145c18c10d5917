"""Read all weight files of a folder together, checked against its index; links out of the folder are refused.

`model_files` decides which files they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from llmcli.checkpoint.files.json_files import read_json_object
from llmcli.checkpoint.files.model_files import WeightFiles
from llmcli.checkpoint.files.safe_paths import inside
from llmcli.checkpoint.files.weight_file import shown
from llmcli.errors import CheckpointError


class InFile(Protocol):
    """A tensor with the path of its file."""

    @property
    def path(self) -> Path:
        """The file."""


T = TypeVar("T", bound=InFile)


def file_names(folder: Path) -> list[str]:
    """Names of everything directly in a folder except hidden files and broken links, sorted.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    try:
        # macOS writes a "._NAME" beside each file on foreign file systems.
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and _is_there(path))
    except OSError as error:
        raise CheckpointError(f"{folder} could not be read: {error.strerror}.") from None


def _is_there(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return True  # opening the file reports the fault


class FolderIndexes:
    """The indexes of a folder's weight files, each parsed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: dict[str, dict[str, str]] = {}

    def weight_map(self, index: str) -> dict[str, str]:
        """Tensor name -> shard name, from an index file; `CheckpointError` if it is damaged."""
        if index not in self._maps:
            self._maps[index] = _weight_map(self.folder / index)
        return self._maps[index]

    def shards(self, index: str) -> list[str]:
        """The names of the shards, in order; `CheckpointError` if the index is damaged."""
        return sorted(set(self.weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    suffix = PurePath(index.name.removesuffix(".index.json")).suffix
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that names the files of the tensors.")
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(suffix) or any(char in name for char in "/\\\0"):
            raise CheckpointError(f"{index} names {shown(str(name))}, which is not a {suffix[1:]} file of its folder.")
    return weight_map


def read_weights(indexes: FolderIndexes, weights: WeightFiles, read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """Read the files of `weights` in the folder of `indexes`; `read` reads one file.

    Raises:
        CheckpointError: a tensor is missing or occurs twice, or a file is a link out of the folder.
    """
    folder = indexes.folder
    tensors = read_together(folder, weights.files, read)
    if weights.index is not None:
        for name, shard in indexes.weight_map(weights.index).items():
            if name not in tensors or tensors[name].path.name != shard:
                where = f"tensor {shown(name)} is in {shown(shard)}"
                raise CheckpointError(f"{folder / weights.index} says that {where}, but it is not there.")
    return tensors


def read_together(folder: Path, names: Sequence[str], read: Callable[[Path], Mapping[str, T]]) -> dict[str, T]:
    """The tensors of several files together; `CheckpointError` if two files have the same tensor."""
    tensors: dict[str, T] = {}
    for shard in names:
        for name, tensor in read(inside(folder, shard)).items():
            if name in tensors:
                raise CheckpointError(f"Tensor {shown(name)} is in both {tensors[name].path} and {tensor.path}.")
            tensors[name] = tensor
    return tensors
