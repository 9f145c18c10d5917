"""Plan which matrices are packed or stay as they are stored, in which formats, and allocate their memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.stored_tables import TableRows, is_in_file, stored_tables
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.repack import bits_of
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.device import memory_for
from llmcli.kernels.cuda.dequantize import unpacker_for
from llmcli.kernels.cuda.support import reads_packed
from llmcli.model import Transformer
from llmcli.model.cache.huge_pages import Pages
from llmcli.model.meta_device import meta_model
from llmcli.model.mixture_of_experts import ExpertWeights
from llmcli.model.quantized.layout import BITS, COLUMNS, Bits, PackedFormat, narrow, wide
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedEmbedding, QuantizedLinear
from llmcli.model.quantized.stored_embedding import EmbeddingInFile, StoredEmbedding, StoredFormat
from llmcli.sizes import size

Storage: TypeAlias = PackedFormat | StoredFormat
Packing: TypeAlias = Literal["stored", "int8", "int4"]
"""Pack tensors that are stored quantized; or all large matrices, in 8 or 4 bits (embedding and head always in 8)."""

# Size of the allocations for weights, in bytes: large, because each may leave a part of its last huge page unused.
_WEIGHTS_AT_ONCE = 1 << 28
# Number of parameters from which on a model's weights get such allocations.
_LARGE = 1 << 24
# Never packed: a gate of a single row, the matrix that latent attention splits, AltUp's tiny ones, step sizes and
# decays of recurrent layers, and the weights of the heads of an index: few weights, whose errors change much.
_DENSE = (
    *("shared_expert_gate", "kv_b_proj", "correction_coefs", "prediction_coefs", "modality_router"),
    *("in_proj_a", "in_proj_b", "dt_proj", "x_proj", "igate_preact", "fgate_preact", "weight_proj"),
)


@dataclass(frozen=True)
class PackingSizes:
    """Chunk sizes of packing, and the model size that decides about the length of groups."""

    values: int = 1 << 18
    """Values packed at once on a CPU: they fit the cache of one core."""
    device_values: int = 1 << 20
    """Values packed at once on a GPU: enough to keep it busy; the chunks of all threads together stay smaller than one
    layer of an 8 B model.
    """
    short_groups_below: int = 1_000_000_000
    """Parameters below which long groups (many columns with one scale) cost quality. The starter keeps its most
    probable token at 57 % of positions with 4 bits in groups of 128, at 70 % in groups of 32; with 8 bits at 93 % with
    one scale a row, at 96 % in groups.
    """


PACKING_SIZES = PackingSizes()


def default_packing(checkpoint: Checkpoint, device: torch.device) -> Packing | None:
    """The default packing for a device: "stored" if its kernel reads stored blocks, else None (dense weights)."""
    if device.type == "cpu":
        return "stored"
    planned = packed_formats(planned_formats(meta_model(checkpoint.config), "stored", checkpoint, device))
    return "stored" if device.type == "cuda" and planned and reads_packed(checkpoint.config, planned) else None


def packed_formats(planned: Mapping[str, Storage]) -> dict[str, PackedFormat]:
    """Those of the `planned` formats that are packed."""
    return {name: kept for name, kept in planned.items() if isinstance(kept, PackedFormat)}


def planned_formats(
    model: Transformer,
    packing: Packing | None,
    checkpoint: Checkpoint | None,
    device: torch.device,
    sizes: PackingSizes = PACKING_SIZES,
) -> dict[str, Storage]:
    """Choose the format of each parameter of `model` that is packed or stays as it is stored, by parameter name.

    `checkpoint` holds the stored tensors; None for a model without files. GPUs use long groups, except for small
    models, which lose quality by them. If the files store quantized values in short groups, all parameters with the
    same number of bits get short groups: kernels read matrices of one layout in one launch.
    """
    tables = stored_tables(checkpoint) if checkpoint is not None else {}
    if packing not in (None, "stored"):
        tables = {name: kept for name, kept in tables.items() if kept.in_file}
    if packing is None:
        return dict[str, Storage](tables)
    parameters = dict.fromkeys(parameter for _, _, parameter in _packable(model) if parameter not in tables)
    found = {parameter: _bits(parameter, packing, checkpoint) for parameter in parameters}
    short = checkpoint is not None and any(_in_short_groups(tensor) for tensor in checkpoint.tensors.values())
    size = sum(parameter.numel() for parameter in model.parameters())
    small = packing != "stored" and size < sizes.short_groups_below
    kept = {
        bits: narrow(bits) if device.type == "cpu" else wide(bits, COLUMNS if short or small else None) for bits in BITS
    }
    if kept[8].group is None and checkpoint is not None and any(map(_in_8_bit_groups, checkpoint.tensors.values())):
        kept[8] = wide(8, kept[4].group)
    return {**tables, **{parameter: kept[bits] for parameter, bits in found.items() if bits is not None}}


def attach_packed_matrices(
    model: Transformer, planned: Mapping[str, Storage], dtype: torch.dtype, device: torch.device
) -> dict[str, PackedMatrix]:
    """Replace parameters of `model` by packed matrices, not yet filled; returns these by parameter name.

    Formats that are not packed are left to `attach_stored_tables`.

    Raises:
        OutOfMemoryError: they do not fit into memory.
    """
    made: dict[str, PackedMatrix] = {}
    # A small model fits the CPU's cache, and would leave most of a huge page unused.
    large = sum(parameter.numel() for parameter in model.parameters()) >= _LARGE
    pages = Pages(_WEIGHTS_AT_ONCE) if large and device.type == "cpu" else None
    for path, module, parameter in list(_packable(model)):
        kept = planned.get(parameter)
        if not isinstance(kept, PackedFormat):
            continue
        if parameter not in made:
            shape = model.get_parameter(parameter).shape
            made[parameter] = _matrix(kept, shape, dtype, device, pages)
        matrix = made[parameter]
        owner, _, name = path.rpartition(".")
        replacement: nn.Module = matrix
        if isinstance(module, ExpertWeights):
            owner, name = path, parameter.rpartition(".")[2]
            delattr(module, name)
        elif isinstance(module, nn.Linear):
            replacement = QuantizedLinear(matrix, bias=module.bias is not None)
        else:
            replacement = QuantizedEmbedding(matrix)
        setattr(model.get_submodule(owner), name, replacement)
    if (unpacker := unpacker_for(device)) is not None:
        unpacker.register(made.values())
    return made


def attach_stored_tables(
    model: Transformer,
    planned: Mapping[str, Storage],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, StoredEmbedding]:
    """Replace embeddings of `model` by tables in the bits of their file.

    Returns those in memory, not yet filled, by parameter.

    Raises:
        OutOfMemoryError: they do not fit into memory.
        CheckpointError: the file of another cannot be opened.
    """
    made = {}
    for parameter, kept in planned.items():
        if isinstance(kept, StoredFormat):
            rows, columns = model.get_parameter(parameter).shape
            decode = ENCODINGS[kept.encoding].decode
            owner, _, name = parameter.removesuffix(".weight").rpartition(".")
            if kept.in_file:
                read = TableRows(checkpoint, parameter)
                table = EmbeddingInFile(kept, decode, read, rows, columns, dtype=dtype)
                setattr(model.get_submodule(owner), name, table)
                continue
            with memory_for_weights(kept.nbytes(rows, columns)):
                made[parameter] = StoredEmbedding(kept, decode, rows, columns, dtype=dtype, device=device)
            setattr(model.get_submodule(owner), name, made[parameter])
    return made


def _packable(model: Transformer) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield each module whose matrix can be packed: its path, the module, and the name of its parameter."""
    for path, module in model.named_modules():
        names = path.split(".")
        if isinstance(module, ExpertWeights):
            inner = "gate_up_proj" if module.gated else "up_proj"
            yield from ((path, module, f"{path}.{part}") for part in (inner, "down_proj"))
        elif isinstance(module, nn.Linear | nn.Embedding) and not {*_DENSE, "embed_positions"}.intersection(names):
            tied = model.config.tie_embeddings and path == "lm_head"
            yield path, module, "embed_tokens.weight" if tied else f"{path}.weight"


def memory_for_weights(nbytes: int) -> AbstractContextManager[None]:
    """Turn a failed allocation of `nbytes` for weights into an `OutOfMemoryError`."""
    return memory_for(
        lambda: f"the model's weights, {size(nbytes)}",
        "Close other programs, use --quantize int4, or use a smaller model.",
    )


def _matrix(
    kept: PackedFormat, shape: torch.Size, dtype: torch.dtype, device: torch.device, pages: Pages | None
) -> PackedMatrix:
    """Allocate a packed matrix of `shape` (rows, columns), or a stack of them: (count, rows, columns)."""
    rows, columns = shape[-2:]
    count = 1 if len(shape) == 2 else shape[0]
    with memory_for_weights(kept.nbytes(rows, columns, count)):
        return PackedMatrix(kept, rows, columns, dtype=dtype, count=count, pages=pages, device=device)


def _bits(parameter: str, packing: Packing, checkpoint: Checkpoint | None) -> Bits | None:
    if packing != "stored":
        looked_up = parameter.startswith(("embed_tokens", "per_layer_embeddings", "lm_head")) or is_in_file(parameter)
        return 8 if packing == "int8" or looked_up else 4
    assert checkpoint is not None
    source = checkpoint.sources[parameter]
    bits = {_kept_bits(checkpoint.tensors[name]) for name in source.names}
    if None in bits:
        return None
    return 4 if bits == {4} else 8


def _kept_bits(tensor: StoredTensor) -> Bits | None:
    """Bits per value if a tensor is packed without requantization; None if it cannot be."""
    if isinstance(tensor, QuantizedTensor):
        return None if tensor.groups is None else tensor.bits
    return bits_of(tensor.encoding)


def _in_short_groups(tensor: StoredTensor) -> bool:
    """Whether a tensor is packed without requantization, in groups shorter than those of a GPU."""
    if isinstance(tensor, QuantizedTensor):
        return tensor.groups is not None and not tensor.wide
    return bits_of(tensor.encoding) is not None


def _in_8_bit_groups(tensor: StoredTensor) -> bool:
    return isinstance(tensor, QuantizedTensor) and tensor.groups is not None and tensor.bits == 8
