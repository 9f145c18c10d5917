"""`Checkpoint`: a model whose headers are read and checked, and whose weights are not read yet.

Torch is imported only for files of `torch.save`, so that commands which load no model start without it. The tokenizer
library is imported only when the tokenizer is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.checkpoint.files.json_files import optional_json_object
from llmcli.checkpoint.files.model_files import model_name
from llmcli.checkpoint.folder import FolderContents, read_folder
from llmcli.checkpoint.gguf.config import gguf_model_config
from llmcli.checkpoint.gguf.families import architecture_of
from llmcli.checkpoint.gguf.header import read_gguf
from llmcli.checkpoint.gguf.model_files import gguf_of_folder
from llmcli.checkpoint.gguf.tensors import GGUFTensors, is_ignored_gguf_tensor, is_unread_gguf_kv
from llmcli.checkpoint.huggingface.config import mtp_layer_range
from llmcli.checkpoint.huggingface.names import is_extra_layer, is_left_out, is_unread
from llmcli.checkpoint.preload import PreloadedGGUF
from llmcli.checkpoint.sampling_defaults import folder_sampling_defaults, gguf_sampling_defaults
from llmcli.checkpoint.tensors.parameter_sources import ParameterSource, match_tensors
from llmcli.checkpoint.tensors.small_tensors import read_numbers
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.model import ModelConfig
from llmcli.model.parameters import parameters_of

if TYPE_CHECKING:
    import torch

    from llmcli.checkpoint.text_assets import TextParts


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a model except its weights."""

    path: Path
    name: str
    format: str
    family: str
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    """The tensors in the files, under their names there."""
    sources: Mapping[str, ParameterSource]
    """For each parameter of the model, the stored tensors that make it up."""
    notes: tuple[str, ...]
    """Warnings for the user that stop nothing."""
    read_text_parts: Callable[[], TextParts]
    read_sampling_defaults: Callable[[], Mapping[str, float]]
    """Reads `TextParts.generation_defaults` without building the tokenizer."""

    def stored_bytes(self, parameter: str) -> int:
        """Bytes in the files that one parameter takes; parameters that share a tensor split its bytes equally."""
        return sum(self.tensors[name].nbytes // self._uses[name] for name in self.sources[parameter].names)

    @cached_property
    def _uses(self) -> Counter[str]:
        return Counter(name for source in self.sources.values() for name in source.names)

    def stored_dtype(self) -> torch.dtype:
        """The stored float type of the embedding; float32 for quantized files, whose values dequantize to it."""
        import torch

        stored = self.tensors[self.sources["embed_tokens.weight"].names[0]].encoding
        return {"F16": torch.float16, "BF16": torch.bfloat16}.get(stored, torch.float32)


def open_checkpoint(path: Path, ahead: PreloadedGGUF | FolderContents | None = None) -> Checkpoint:
    """Read and check the headers of the model in `path`, a folder or a GGUF file.

    `ahead` is the part of it that has been read already.

    Raises:
        CheckpointError: files are broken or contradict each other.
        UnsupportedModelError: this program cannot run that kind of model or format.
    """
    if path.is_dir():
        return _open_folder(path, ahead if isinstance(ahead, FolderContents) else read_folder(path))
    return _open_gguf(path, ahead if isinstance(ahead, PreloadedGGUF) else None)


def _open_folder(folder: Path, contents: FolderContents | None) -> Checkpoint:
    if contents is None:
        return _open_gguf(gguf_of_folder(folder))
    from llmcli.checkpoint.huggingface.tensors import HFTensors

    description, tensors, config = contents.description, contents.tensors, contents.config

    def read_text_parts() -> TextParts:
        from llmcli.checkpoint.text_assets import folder_text_parts

        return folder_text_parts(folder, {**description.keys.values, **contents.keys.values}, config.vocab_size)

    mtp_layers, family = mtp_layer_range(description), description.family
    sources, notes = match_tensors(
        _parameter_shapes(config),
        HFTensors(contents.names, tensors, family, config, family.scales(description.keys)).source,
        tensors,
        ignored=lambda name: (
            contents.ignored(name)
            or is_extra_layer(name, *mtp_layers)
            or is_left_out(name, description.left_out)
            or is_unread(name, config)
        ),
        belongs=contents.belongs,
        where=str(folder),
    )
    return Checkpoint(
        path=folder,
        name=model_name(folder),
        format=contents.format,
        family=description.model_type,
        config=config,
        tensors=tensors,
        sources=sources,
        notes=(*contents.notes, *notes),
        read_text_parts=read_text_parts,
        read_sampling_defaults=lambda: folder_sampling_defaults(
            optional_json_object(folder / "generation_config.json")
        ),
    )


def _open_gguf(path: Path, ahead: PreloadedGGUF | None = None) -> Checkpoint:
    header = read_gguf(path) if ahead is None else ahead.header
    architecture, keys = architecture_of(header)

    def read_text_parts() -> TextParts:
        from llmcli.checkpoint.text_assets import gguf_text_parts

        return gguf_text_parts(header, config.vocab_size)

    config = gguf_model_config(header, lambda name: read_numbers(header.tensors[name]))
    mtp_layers = (keys.layers(), keys.mtp_layers())
    sources, notes = match_tensors(
        _parameter_shapes(config),
        GGUFTensors(header, config, architecture.paired, architecture.paired_index, architecture.names).source,
        header.tensors,
        ignored=lambda name: is_ignored_gguf_tensor(name, *mtp_layers) or is_unread_gguf_kv(name, config),
        belongs=lambda name: True,
        where=str(path),
    )
    return Checkpoint(
        path=path,
        name=model_name(path),
        format="GGUF",
        family=keys.architecture,
        config=config,
        tensors=header.tensors,
        sources=sources,
        notes=tuple(notes),
        read_text_parts=read_text_parts if ahead is None else ahead.text.result,
        read_sampling_defaults=lambda: gguf_sampling_defaults(header.metadata),
    )


def _parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: parameter.shape for name, parameter in parameters_of(config).items()}
