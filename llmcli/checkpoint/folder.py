"""Read a model folder of any layout: detect the layout, then read its configuration and tensor headers.

There are three layouts: Hugging Face's with safetensors, Hugging Face's with files of `torch.save`, and the releases of
Mistral and Meta. Some repositories hold the same weights in several; `files/model_files.py` decides which are read.

Safetensors are read without torch, so that their faults are reported before torch is imported. Files of `torch.save`
need torch: only `torch.load(weights_only=True)` reads a pickle without running code from it. Readers of rare formats
are imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.checkpoint.families.bias_keys import without_unwanted_biases
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.json_files import read_json_object
from llmcli.checkpoint.files.model_files import WeightFiles, no_weights, weight_files
from llmcli.checkpoint.files.model_folder import FolderIndexes, file_names, read_weights
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.huggingface.config import FamilyConfig, family_config, model_config, tensor_names
from llmcli.checkpoint.huggingface.names import TensorNames, belongs_to_model, is_ignored_name
from llmcli.checkpoint.huggingface.safetensors_header import read_safetensors
from llmcli.checkpoint.huggingface.stacked_experts import without_stacks
from llmcli.checkpoint.huggingface.streams import check_hashes
from llmcli.checkpoint.native.params import hf_keys
from llmcli.checkpoint.quantized.settings import quantization_settings
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import UnsupportedModelError
from llmcli.model import ModelConfig

if TYPE_CHECKING:
    from llmcli.checkpoint.huggingface.torch_pickles import TorchTensor
    from llmcli.checkpoint.tensors.tensor_info import StoredTensor

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class FolderContents:
    """Configuration and tensor headers of a model folder; no weights have been read."""

    format: str
    keys: ConfigKeys
    """The keys of `config.json`, or of `params.json` translated to them."""
    description: FamilyConfig
    tensors: Mapping[str, StoredTensor]
    names: TensorNames
    config: ModelConfig
    ignored: Callable[[str], bool] = is_ignored_name
    """Whether a tensor of that name is not needed to generate text."""
    belongs: Callable[[str], bool] = belongs_to_model
    """Whether a tensor of that name looks like a part of a language model."""
    notes: tuple[str, ...] = ()
    """Warnings about weight files that are not read."""


def read_folder(folder: Path) -> FolderContents | None:
    """Read a folder's configuration and the headers of its weights; None if it has none of these layouts.

    Raises:
        CheckpointError: files are broken or contradict each other.
        UnsupportedModelError: this program cannot run that kind of model or format.
    """
    names = file_names(folder)
    indexes = FolderIndexes(folder)
    weights = weight_files(names, indexes.shards, where=str(folder))
    if weights is None:
        ggufs = any(name.lower().endswith(".gguf") for name in names)
        if _ADAPTER in names and not ggufs:
            raise _only_an_adapter(folder)
        if "config.json" in names and not ggufs:
            # An unsupported model is the better error than missing weights.
            family_config(ConfigKeys(read_json_object(folder / "config.json"), folder / "config.json"))
            raise no_weights(names, str(folder))
        return None
    if weights.config == "params.json":
        return _read_native(folder, list(weights.files))
    keys = ConfigKeys(read_json_object(folder / "config.json"), folder / "config.json")
    description = family_config(keys)
    tensors: Mapping[str, StoredTensor]
    if weights.layout == "safetensors":
        stored = without_stacks(read_weights(indexes, weights, read_safetensors))
        tensors = _collapse_quantized(stored, keys, folder)
    else:
        tensors = _read_torch(indexes, weights, keys)
    if description.family.adapters:
        tensors = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    tensors = without_unwanted_biases(tensors, description.keys, description.family.biases)
    tensor_map = tensor_names(description, tensors)
    config = model_config(description, tensor_map)
    check_hashes(tensors, config)
    return FolderContents(weights.layout, keys, description, tensors, tensor_map, config, notes=weights.notes)


def _collapse_quantized(
    tensors: Mapping[str, TensorInfo], keys: ConfigKeys, folder: Path
) -> Mapping[str, StoredTensor]:
    if quantization_settings(tensors, keys, folder) is None:
        return tensors
    from llmcli.checkpoint.quantized.detect import collapse_quantized

    return collapse_quantized(tensors, keys, folder)


def _read_torch(indexes: FolderIndexes, weights: WeightFiles, keys: ConfigKeys) -> dict[str, TorchTensor]:
    from llmcli.checkpoint.huggingface.torch_pickles import read_torch_file, without_shared_head

    text = keys.section("text_config")
    if keys.section("quantization_config") or (text is not None and text.section("quantization_config")):
        raise _quantized_pickles(indexes.folder)
    tensors = read_weights(indexes, weights, read_torch_file)
    if any(name.endswith(".qweight") for name in tensors):
        raise _quantized_pickles(indexes.folder)
    return tensors if keys.get("tie_word_embeddings") is False else without_shared_head(tensors)


def _read_native(folder: Path, files: list[str]) -> FolderContents:
    from llmcli.checkpoint.native.weights import (
        NativeNames,
        embedding_rows,
        is_ignored_native,
        read_native_safetensors,
        read_native_torch,
    )

    path = folder / "params.json"
    params = ConfigKeys(read_json_object(path), path)
    if files[0].endswith(".safetensors"):
        stored = read_native_safetensors(folder, files)
        keys = hf_keys(params, embedding_rows(stored, folder / files[0]))
        tensors, layout = _collapse_quantized(stored, keys, folder), "consolidated safetensors"
    else:
        tensors = read_native_torch(folder, files, params.integer("dim"))
        keys = hf_keys(params, embedding_rows(tensors, folder / files[0]))
        layout = "consolidated PyTorch"
        if keys.section("quantization_config"):
            raise _quantized_pickles(folder)
    description = family_config(keys)
    # Meta stores the two rows of a rotated pair next to each other.
    description = replace(description, family=replace(description.family, paired=True))
    names = NativeNames(tensors)
    config = model_config(description, names)
    return FolderContents(
        layout, keys, description, tensors, names, config, is_ignored_native, belongs=lambda name: True
    )


def _quantized_pickles(folder: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder} holds quantized weights in PyTorch files, which are not supported; "
        "use a safetensors or GGUF version of the model."
    )


def _only_an_adapter(folder: Path) -> UnsupportedModelError:
    base = ConfigKeys(read_json_object(folder / _ADAPTER), folder / _ADAPTER).get("base_model_name_or_path")
    model = f"the model {shown(base)}" if isinstance(base, str) and base else "another model"
    return UnsupportedModelError(
        f"{folder} holds only an adapter (LoRA) for {model}, and adapters are not supported; merge it into that model "
        "(`merge_and_unload` of the peft library), save the result and use that."
    )
