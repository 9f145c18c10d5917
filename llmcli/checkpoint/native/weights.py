"""Weights in the layouts of Mistral and Meta: `consolidated.safetensors`, or `consolidated.00.pth` and following.

Tensors have Meta's names. The two rows of a rotated pair, of queries and keys, are stored next to each other. Meta
splits every matrix over its files; Mistral's files hold whole tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.checkpoint.files.model_folder import read_together
from llmcli.checkpoint.files.safe_paths import inside
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.checkpoint.huggingface.safetensors_header import read_safetensors
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.huggingface.torch_pickles import TorchTensor
    from llmcli.checkpoint.tensors.tensor_info import RowReader

# Meta's and Hugging Face's names of the parts of a layer.
_LAYER_PARTS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.gate": "mlp.gate",
}
_OTHER_PARTS = {"tok_embeddings": "embed_tokens", "norm": "norm", "output": "lm_head"}
_PARTS = {theirs: ours for ours, theirs in (*_LAYER_PARTS.items(), *_OTHER_PARTS.items())}
_TENSOR = re.compile(r"(layers\.\d+\.)?(.+)\.(\w+)")
_EXPERT = re.compile(r"feed_forward(\.experts\.\d+\.w[123])")
# Vision and audio parts, and a table that is computed from the configuration.
_IGNORED = re.compile(
    r"(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm|mm_whisper_embeddings)\..*|rope\.freqs"
)
# The dimension along which Meta splits each matrix; norms are complete in every file.
_CUT = {
    **dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0),
    **dict.fromkeys(("wo", "w2"), 1),
}


class NativeNames(TensorNames):
    """Tensor names in Meta's layout, looked up by their Hugging Face names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._native = {_hf_name(name): name for name in names}
        super().__init__(self._native, {})

    def full(self, name: str) -> str:
        """The tensor's name in the file; the expected name if it is missing."""
        return self._native.get(name) or _native_name(name)


def is_ignored_native(name: str) -> bool:
    """Whether a tensor is not needed to generate text."""
    return _IGNORED.fullmatch(name) is not None


def read_native_safetensors(folder: Path, names: list[str]) -> dict[str, TensorInfo]:
    """The tensors of Mistral's safetensors files, by name; `CheckpointError` if a file is damaged."""
    return read_together(folder, names, read_safetensors)


def read_native_torch(folder: Path, names: list[str], hidden_size: int) -> dict[str, StoredTensor]:
    """The tensors of all files `consolidated.NN.pth`, with split ones joined, by name.

    Raises:
        CheckpointError: a file is damaged, or lacks a tensor that another one has.
    """
    from llmcli.checkpoint.huggingface.torch_pickles import read_torch_file

    files = [read_torch_file(inside(folder, name)) for name in names]
    if len(files) == 1:
        return dict(files[0])
    together: dict[str, StoredTensor] = {}
    for name in {name: None for file in files for name in file}:
        missing = [path for path, file in zip(names, files, strict=True) if name not in file]
        if missing:
            raise CheckpointError(f"{folder / missing[0]} lacks the tensor {shown(name)}, which other files have.")
        parts = tuple(file[name] for file in files)
        dimension = _cut_dimension(name, parts[0], hidden_size)
        together[name] = parts[0] if dimension is None else SplitTensor(name, parts, dimension)
    return together


@dataclass(frozen=True)
class SplitTensor:
    """A matrix whose rows or columns are split over several files."""

    name: str
    parts: tuple[TorchTensor, ...]
    dimension: int

    def __post_init__(self) -> None:
        kept = 1 - self.dimension
        for part in self.parts:
            if len(part.shape) != 2 or part.shape[kept] != self.parts[0].shape[kept]:
                raise CheckpointError(
                    f"{part.path}: tensor {shown(self.name)} has shape {list(part.shape)}, which does not match "
                    f"{list(self.parts[0].shape)} in {self.parts[0].path.name}."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole matrix."""
        size, kept = sum(part.shape[self.dimension] for part in self.parts), self.parts[0].shape[1 - self.dimension]
        return (size, kept) if self.dimension == 0 else (kept, size)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    @property
    def encoding(self) -> str:
        """The encoding of the first part."""
        return self.parts[0].encoding

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the whole matrix, (rows, columns)."""
        import torch

        if self.dimension == 1:
            return torch.cat([part.read_rows(reader, start, stop) for part in self.parts], dim=1)
        pieces: list[Tensor] = []
        first = 0
        for part in self.parts:
            low, high = (min(max(row - first, 0), part.shape[0]) for row in (start, stop))
            pieces.append(part.read_rows(reader, low, high))
            first += part.shape[0]
        return torch.cat(pieces)


def _cut_dimension(name: str, part: StoredTensor, hidden_size: int) -> int | None:
    """The dimension along which a tensor is split; None: every file has all of it."""
    if name == "tok_embeddings.weight":
        # Llama 1 and 2 split the columns, Llama 3 the rows.
        return 0 if part.shape[1:] == (hidden_size,) else 1
    return _CUT.get(name.removesuffix(".weight").rpartition(".")[2])


def _hf_name(name: str) -> str:
    match = _TENSOR.fullmatch(name)
    if match is None:
        return name
    layer, part, kind = match[1] or "", match[2], match[3]
    expert = _EXPERT.fullmatch(part)
    part = f"block_sparse_moe{expert[1]}" if expert else {**_LAYER_PARTS, **_OTHER_PARTS}.get(part, part)
    return f"{layer}{part}.{kind}"


def _native_name(name: str) -> str:
    match = _TENSOR.fullmatch(name)
    return name if match is None else f"{match[1] or ''}{_PARTS.get(match[2], match[2])}.{match[3]}"


def embedding_rows(tensors: Mapping[str, StoredTensor], path: Path) -> int:
    """The vocabulary size, from the embedding; `CheckpointError` if it is missing."""
    embedding = tensors.get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path} holds no matrix tok_embeddings.weight, the embedding.")
    return embedding.shape[0]
