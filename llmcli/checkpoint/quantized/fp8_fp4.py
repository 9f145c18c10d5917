"""Weights in 8-bit and 4-bit floating point: `fp8`, `fbgemm_fp8`, `modelopt`, and packed `mxfp4` experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.huggingface.stacked_experts import part_of_stack
from llmcli.checkpoint.quantized.base import QuantizedTensor, TensorPool, as_wide, check_matrix, check_shape
from llmcli.checkpoint.quantized.scaled_codes import (
    SCALES,
    Cell,
    GridRows,
    check_one_number,
    float_codes,
    fp4_codes,
    grid_cell,
)
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError

WHOLE: Cell = (None, None)
PER_ROW: Cell = (1, None)
PER_COLUMN: Cell = (None, 1)

FP8 = ("F8_E4M3", "F8_E5M2")

_NVFP4_GROUP = 16
_MXFP4_GROUP = 32


def collapse_fp8(tensors: TensorPool, cells: Sequence[Cell]) -> None:
    """Combine every remaining FP8 tensor with its scales; `cells` are the grids that the scales may have.

    The names are `W_scale_inv` (DeepSeek; a factor in spite of its name) or `W_scale` for the weight W, and `X.scale`
    or `X.qscale_weight` for `X.weight`.

    Raises:
        CheckpointError: a weight has no scales, or a number of scales that no cell explains.
    """
    for name in [name for name, info in tensors.left.items() if info.encoding in FP8]:
        weight = tensors.take(name, FP8)
        module = name.removesuffix("weight")
        candidates = [f"{name}_scale_inv", f"{name}_scale"]
        if name.endswith(".weight"):
            candidates += [f"{module}scale", f"{module}qscale_weight"]
        scale_name = next((candidate for candidate in candidates if candidate in tensors.left), candidates[0])
        scale = tensors.take(scale_name, SCALES, beside=weight)
        shape = _weight_shape(weight)
        cell = grid_cell(scale, weight, shape, cells)
        tensors.put(
            QuantizedTensor(name, shape, "FP8", (weight, scale), GridRows(shape, weight, float_codes, scale, cell))
        )


def collapse_fp4_experts(tensors: TensorPool) -> None:
    """Combine FP4 weights beside FP8 ones with their scales: two numbers per byte, `X.scale` for 32 of `X.weight`.

    DeepSeek-V4 has experts like that, as signed bytes.

    Raises:
        CheckpointError: scales are missing or do not fit.
    """
    bytes_of = [name for name, info in tensors.left.items() if info.encoding in ("I8", "U8")]
    for name in bytes_of:
        scale_name = f"{name.removesuffix('weight')}scale"
        if not name.endswith(".weight") or scale_name not in tensors.left:
            continue
        weight = tensors.take(name, ("I8", "U8"))
        scale = tensors.take(scale_name, SCALES, beside=weight)
        rows, stored = check_matrix(weight)
        groups = (rows, -(-2 * stored // _MXFP4_GROUP))
        check_shape(scale, groups, weight)
        if 2 * stored % _MXFP4_GROUP:
            raise CheckpointError(
                f"{weight.path}: tensor {shown(name)} has {stored} bytes in a row; a multiple of 16 is needed."
            )
        tensors.put(_mxfp4(name, replace(weight, shape=(*groups, _MXFP4_GROUP // 2), encoding="U8"), scale))


def collapse_modelopt_nvfp4(tensors: TensorPool) -> None:
    """Combine weights of two FP4 numbers per byte with FP8 scales for 16 values each and one scale for all.

    Raises:
        CheckpointError: scales are missing or do not fit.
    """
    for stem in tensors.stems(".weight_scale_2"):
        factor = tensors.take(f"{stem}.weight_scale_2", ("F32", "F16", "BF16"))
        weight = tensors.take(f"{stem}.weight", ("U8",), beside=factor)
        scale = tensors.take(f"{stem}.weight_scale", SCALES, beside=weight)
        put_fp4(tensors, f"{stem}.weight", weight, scale, _NVFP4_GROUP, factor, divides=False)


def put_fp4(
    tensors: TensorPool,
    name: str,
    weight: TensorInfo,
    scale: TensorInfo,
    group: int,
    factor: TensorInfo | None = None,
    *,
    divides: bool,
) -> None:
    """Add the weight made of FP4 numbers, two per byte, with one scale for each `group` numbers of a row."""
    *lead, rows, stored = _weight_shape(weight)
    shape = (*lead, rows, 2 * stored)
    cell = grid_cell(scale, weight, shape, [(1, group)])
    parts: tuple[TensorInfo, ...] = (weight, scale)
    if factor is not None:
        check_one_number(factor, tuple(lead), weight)
        parts = (*parts, factor)
    decode = GridRows(shape, weight, fp4_codes, scale, cell, global_scale=factor, global_divides=divides)
    tensors.put(QuantizedTensor(name, shape, "NVFP4" if group == _NVFP4_GROUP else "MXFP4", parts, decode))


def collapse_mxfp4(tensors: TensorPool) -> None:
    """Replace `P_blocks` (rows, K / 32, 16) and `P_scales` by P of shape (rows, K), and a stack by its experts.

    The stack `experts.down_proj` becomes `experts.0.down_proj.weight` and so on. Rows keep the order of the file,
    outputs first: gpt-oss has `gate_up_proj` (E, 2 I, d), with gate in even rows and up in odd rows, and `down_proj`
    (E, d, I). The unquantized form of that family has the last two dimensions transposed.

    Raises:
        CheckpointError: scales are missing or do not fit.
    """
    for stem in tensors.stems("_blocks"):
        blocks = tensors.take(f"{stem}_blocks", ("U8",))
        scale = tensors.take(f"{stem}_scales", ("U8", "F8_E8M0"), beside=blocks)
        if len(blocks.shape) not in (3, 4) or blocks.shape[-1] * 2 != _MXFP4_GROUP:
            raise CheckpointError(
                f"{blocks.path}: tensor {shown(blocks.name)} has shape {list(blocks.shape)}; "
                "blocks of 16 bytes in rows are needed."
            )
        check_shape(scale, blocks.shape[:-1], blocks)
        if len(blocks.shape) == 3:
            tensors.put(_mxfp4(stem, blocks, scale))
            continue
        stack, _, name = stem.rpartition(".")
        for expert in range(blocks.rows):
            parts = (part_of_stack(info, expert, info.name) for info in (blocks, scale))
            tensors.put(_mxfp4(f"{stack}.{expert}.{name}.weight", *parts))


def _mxfp4(name: str, blocks: TensorInfo, scale: TensorInfo) -> QuantizedTensor:
    shape = (blocks.rows, blocks.shape[1] * _MXFP4_GROUP)
    rows = GridRows(shape, blocks, fp4_codes, scale, (1, _MXFP4_GROUP), fraction=2)
    return QuantizedTensor(name, shape, "MXFP4", (blocks, scale), rows, rows.packed, 8, as_wide(_MXFP4_GROUP, shape[1]))


def _weight_shape(weight: TensorInfo) -> tuple[int, ...]:
    """(N, K) or, for experts, (E, N, K)."""
    if len(weight.shape) != 3:
        check_matrix(weight)
    return weight.shape
