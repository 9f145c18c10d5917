"""Write a checkpoint with edits merged into its weights, as a new Hugging Face folder with safetensors.

A Hugging Face folder of float weights keeps its tensor names, dtypes and other files. GGUF files and quantized weights
are dequantized, and configuration and tokenizer are converted; the result is read back and must give the same
`ModelConfig`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.edits.edit_file import Edit
from llmcli.checkpoint.files.json_files import read_json_object
from llmcli.checkpoint.files.safe_paths import inside
from llmcli.checkpoint.gguf.config import config_values
from llmcli.checkpoint.gguf.header import read_gguf
from llmcli.checkpoint.huggingface.safetensors_writer import Planned, write_safetensors
from llmcli.checkpoint.sampling_defaults import generation_config
from llmcli.checkpoint.tensors.parameter_sources import Source
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError
from llmcli.model.parameters import parameters_of
from llmcli.text.chat_template.json_text import json_text

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_BESIDE = (".json", ".jinja", ".model", ".txt", ".md")
_NOT_COPIED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FOLDER_FORMATS = ("safetensors", "PyTorch")
# `architectures` in `config.json`, by which other programs choose their class.
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


@dataclass(frozen=True)
class _Tensor:
    """A tensor to write, and a function that reads its values."""

    planned: Planned
    read: Callable[[TensorReader], Tensor]


def merge(
    checkpoint: Checkpoint,
    edits: Sequence[Edit],
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `checkpoint` with `edits` merged in to the new folder `folder`, completely or not at all.

    `dtype` is that of all weights; by default each keeps its own, float32 if it is stored quantized. `progress` is
    called with the bytes written and the total.

    Raises:
        LlmcliError: the folder exists already, or cannot be written.
        CheckpointError: an edit does not fit the model, or a file of the model cannot be read.
        UnsupportedModelError: the model cannot be described as a Hugging Face folder.
    """
    if folder.exists():
        raise LlmcliError(f"{folder} exists already; give a new folder.")
    changes = _changes(checkpoint, edits)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        plain = dtype is None and _keeps_names(checkpoint, changes)
        tensors = list(_same_tensors(checkpoint, changes) if plain else _all_parameters(checkpoint, changes, dtype))
        if plain:
            _copy_beside(checkpoint.path, partial)
        elif checkpoint.path.is_dir():
            _describe_folder(checkpoint, partial)
        else:
            _describe_gguf(checkpoint, partial)
        _write(partial / "model.safetensors", tensors, progress)
        if open_checkpoint(partial).config != checkpoint.config:
            raise _no_folder(checkpoint)
        partial.rename(folder)
    except OSError as error:
        raise LlmcliError(f"{folder} could not be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _no_folder(checkpoint: Checkpoint) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{checkpoint.path} cannot be written as a Hugging Face folder: the {checkpoint.format} settings of this "
        f"{checkpoint.family} model cannot be expressed in a config.json. Use the edits with -e."
    )


def _changes(checkpoint: Checkpoint, edits: Sequence[Edit]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """For each changed parameter, its updates (read, write)."""
    shapes = {name: parameter.shape for name, parameter in parameters_of(checkpoint.config).items()}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for edit in edits:
        for update in edit.updates:
            name = f"layers.{update.layer}.mlp.down_proj.weight"
            if shapes.get(name) != (len(update.write), len(update.read)):
                where = edit.source or f"The edit of {edit.subject!r}"
                raise CheckpointError(f"{where} does not fit {checkpoint.name} in block {update.layer}.")
            found.setdefault(name, []).append((update.read, update.write))
    return found


def _changed(values: Tensor, updates: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The matrix plus its updates, added in float32 and rounded once."""
    added = values.float()
    for read, write in updates:
        added = added.addr(write, read)
    return added.to(values.dtype)


def _keeps_names(checkpoint: Checkpoint, changes: dict[str, list[tuple[Tensor, Tensor]]]) -> bool:
    """Whether all tensors are plain floats, and the changed ones are stored like the model's parameters."""
    if checkpoint.format not in _FOLDER_FORMATS:
        return False
    if not all(isinstance(tensor, TensorInfo) and tensor.encoding in _DTYPES for tensor in checkpoint.tensors.values()):
        return False
    sources = [checkpoint.sources[name] for name in changes]
    return all(
        isinstance(source, Source)
        and source.ranges is None
        and checkpoint.tensors[source.name].shape == (len(write), len(read))
        for source, [(read, write), *_] in zip(sources, changes.values(), strict=True)
    )


def _same_tensors(checkpoint: Checkpoint, changes: dict[str, list[tuple[Tensor, Tensor]]]) -> Iterator[_Tensor]:
    updates = {checkpoint.sources[name].names[0]: found for name, found in changes.items()}
    for name, stored in checkpoint.tensors.items():
        assert isinstance(stored, TensorInfo)

        def read(reader: TensorReader, name: str = name, stored: TensorInfo = stored) -> Tensor:
            values = torch.empty(stored.shape, dtype=_DTYPES[stored.encoding])
            reader.read_into(stored, values)
            return _changed(values, updates[name]) if name in updates else values

        yield _Tensor(Planned(name, _DTYPES[stored.encoding], stored.shape), read)


def _all_parameters(
    checkpoint: Checkpoint, changes: dict[str, list[tuple[Tensor, Tensor]]], dtype: torch.dtype | None
) -> Iterator[_Tensor]:
    """The parameters of our model, under Hugging Face names."""
    asked = dtype or checkpoint.stored_dtype()
    for name, parameter in parameters_of(checkpoint.config).items():
        shape, kind = parameter.shape, torch.float32 if parameter.float32 else asked

        def read(
            reader: TensorReader, name: str = name, shape: tuple[int, ...] = shape, kind: torch.dtype = kind
        ) -> Tensor:
            values = torch.empty(shape, dtype=torch.float32)
            checkpoint.sources[name].read_into(checkpoint.tensors, reader, values)
            return _changed(values, changes.get(name, ())).to(kind)

        full = name if name.startswith("lm_head.") else f"model.{name}"
        yield _Tensor(Planned(full, kind, shape), read)


def _write(path: Path, tensors: Sequence[_Tensor], progress: Callable[[int, int], None] | None) -> None:
    planned = [tensor.planned for tensor in tensors]
    total = sum(plan.nbytes for plan in planned)
    with TensorReader() as reader, path.open("wb") as file:
        values = (tensor.read(reader) for tensor in tensors)
        for done in write_safetensors(file, planned, values, {"format": "pt"}):
            if progress is not None:
                progress(done, total)


def _copy_beside(folder: Path, to: Path) -> None:
    """Copy the files beside the weights. Links out of the model are refused: they could leak a secret file."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.suffix in _BESIDE or path.stem.upper() == "LICENSE"):
            if path.name not in _NOT_COPIED:
                shutil.copyfile(inside(folder, path.name), to / path.name)
        elif path.name == "additional_chat_templates" and path.is_dir():
            (to / path.name).mkdir()
            for each in sorted(inside(folder, path.name).glob("*.jinja")):
                shutil.copyfile(inside(path, each.name), to / path.name / each.name)


def _describe_folder(checkpoint: Checkpoint, to: Path) -> None:
    path = checkpoint.path / "config.json"
    if checkpoint.format not in _FOLDER_FORMATS or not path.exists():
        raise UnsupportedModelError(
            f"{checkpoint.path} is in the layout {checkpoint.format}; its params.json cannot be converted to a "
            "config.json. Merge the Hugging Face version of the model, or use the edits with -e."
        )
    _copy_beside(checkpoint.path, to)
    config = {key: value for key, value in read_json_object(path).items() if key != "quantization_config"}
    _write_json(to / "config.json", config)


def _describe_gguf(checkpoint: Checkpoint, to: Path) -> None:
    """Write configuration, tokenizer and sampling defaults of a GGUF file as those of a Hugging Face folder."""
    header = read_gguf(checkpoint.path)
    # Files with divisors of RoPE frequencies (Llama 3.1) do not state the rule behind them.
    if any(name.startswith("rope_") for name in header.tensors):
        raise _no_folder(checkpoint)

    def read_values(name: str) -> tuple[float, ...]:
        info = header.tensors[name]
        with TensorReader() as reader:
            return tuple(reader.read_rows(info, 0, info.rows).float().flatten().tolist())

    model_type, values = config_values(header, read_values)
    text = checkpoint.read_text_parts()
    stops = sorted(text.stop_ids)
    config = {key: value for key, value in values.items() if value is not None} | {
        "model_type": model_type,
        "tie_word_embeddings": checkpoint.config.tie_embeddings,
        "attention_bias": any("self_attn.q_proj.bias" in name for name in checkpoint.sources),
        "mlp_bias": checkpoint.config.mlp_bias,
        "bos_token_id": text.tokenizer.bos_id,
        "eos_token_id": stops,
    }
    if architectures := _ARCHITECTURES.get(model_type):
        config["architectures"] = [architectures]
    _write_json(to / "config.json", config)
    (to / "tokenizer.json").write_text(text.tokenizer.to_json(), encoding="utf-8")
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **text.tokenizer.special_tokens}
    if text.templates:
        named = [{"name": name, "template": template} for name, template in text.templates.items()]
        only = len(text.templates) == 1
        about["chat_template"] = text.templates.get("default") if only and "default" in text.templates else named
    _write_json(to / "tokenizer_config.json", about)
    _write_json(to / "generation_config.json", {"eos_token_id": stops, **generation_config(text.generation_defaults)})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json_text(values, indent=2) + "\n", encoding="utf-8")
