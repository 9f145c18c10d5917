"""Read the tensors of a folder of safetensors files without a configuration."""

from __future__ import annotations

from pathlib import Path

from llmcli.checkpoint.files.model_files import no_weights, weight_files
from llmcli.checkpoint.files.model_folder import FolderIndexes, file_names, read_weights
from llmcli.checkpoint.huggingface.safetensors_header import read_safetensors
from llmcli.checkpoint.tensors.tensor_info import TensorInfo


def read_safetensors_folder(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a folder by name, with the errors of a model's folder."""
    indexes = FolderIndexes(folder)
    names = [*file_names(folder), "config.json"]
    weights = weight_files(names, indexes.shards, where=str(folder))
    if weights is None or weights.layout != "safetensors":
        raise no_weights(names, str(folder))
    return read_weights(indexes, weights, read_safetensors)
