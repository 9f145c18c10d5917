"""Weights of `compressed-tensors`: integers packed into words, int8, FP8, MXFP8, NVFP4 and MXFP4."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.quantized.base import (
    FLOATS,
    QuantizedTensor,
    TensorPool,
    as_wide,
    check_matrix,
    check_shape,
)
from llmcli.checkpoint.quantized.fp8_fp4 import FP8, PER_ROW, WHOLE, collapse_fp8, put_fp4
from llmcli.checkpoint.quantized.scaled_codes import (
    SCALES,
    Cell,
    GridRows,
    ambiguous,
    float_codes,
    grid_cell,
    packed_codes,
)
from llmcli.checkpoint.tensors.small_tensors import read_integers, read_stored
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

FORMATS = (
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
)


@dataclass(frozen=True)
class _Scheme:
    """The weight settings of one entry of `config_groups`."""

    bits: int
    cell: Cell


def refused_variant(config: ConfigKeys) -> str | None:
    """A description of an unsupported part of the configuration; None if there is none."""
    formats = [config.text("format")] + [group.text("format") for group in _groups(config)]
    for name in formats:
        if name is not None and name not in FORMATS:
            return f"format {shown(name)}"
    sparsity = config.section("sparsity_config")
    if sparsity is not None and sparsity.text("format") not in (None, "dense"):
        return f"sparsity format {shown(str(sparsity.text('format')))}"
    transforms = config.section("transform_config")
    if transforms is not None and transforms.get("config_groups"):
        return "weights that a transform has rotated"
    return None


def collapse_compressed(tensors: TensorPool, config: ConfigKeys) -> None:
    """Replace `X.weight_packed` or a quantized `X.weight`, and the tensors that belong to it, by `X.weight`.

    The shapes of a module's tensors show which of the settings applies to it.

    Raises:
        CheckpointError: invalid settings, or shapes that contradict them or each other.
        UnsupportedModelError: an unknown kind of grid, or two settings that fit the same shapes.
    """
    schemes = _schemes(config)
    cells = [scheme.cell for scheme in schemes]
    for stem in tensors.stems(".weight_packed"):
        packed = tensors.take(f"{stem}.weight_packed", ("I32", "U8"))
        if packed.encoding == "I32":
            _put_integers(tensors, stem, packed, schemes)
        else:
            factor = tensors.take_optional(f"{stem}.weight_global_scale", FLOATS)
            scale = tensors.take(f"{stem}.weight_scale", SCALES, beside=packed)
            put_fp4(tensors, f"{stem}.weight", packed, scale, 32 if factor is None else 16, factor, divides=True)
    for name in [name for name, info in tensors.left.items() if info.encoding == "I8" and name.endswith(".weight")]:
        _put_int8(tensors, name, cells)
    for name in [name for name, info in tensors.left.items() if info.encoding in FP8]:
        # FP8 is symmetric, but some tools write zero points all the same.
        tensors.left.pop(f"{name}_zero_point", None)
    collapse_fp8(tensors, cells)


def _put_int8(tensors: TensorPool, name: str, cells: list[Cell]) -> None:
    weight = tensors.take(name, ("I8",))
    scale = tensors.take(f"{name}_scale", SCALES, beside=weight)
    zero = tensors.take_optional(f"{name}_zero_point", ("I8",))
    if len(weight.shape) != 3:
        check_matrix(weight)
    cell = grid_cell(scale, weight, weight.shape, cells)
    if zero is not None:
        check_shape(zero, scale.shape, scale)
    parts = (weight, scale) if zero is None else (weight, scale, zero)
    decode = GridRows(weight.shape, weight, float_codes, scale, cell, zero)
    tensors.put(_kept_in_8_bits(QuantizedTensor(name, weight.shape, "int8", parts, decode), decode))


def _put_integers(tensors: TensorPool, stem: str, packed: TensorInfo, schemes: list[_Scheme]) -> None:
    if len(packed.shape) != 3:
        check_matrix(packed)
    *lead, words = packed.shape
    scale = tensors.take(f"{stem}.weight_scale", SCALES, beside=packed)
    size = tensors.take(f"{stem}.weight_shape", ("I64", "I32"), beside=packed)
    check_shape(size, (len(packed.shape),), packed)
    *stated, columns = read_integers(size)
    fitting = [scheme for scheme in schemes if -(-columns * scheme.bits // 32) == words]
    if stated != lead or columns < 1 or not fitting:
        raise CheckpointError(
            f"{size.path}: tensor {shown(size.name)} says {[*stated, columns]}, which does not match "
            f"{shown(packed.name)} of shape {list(packed.shape)} in any of the model's quantization settings."
        )
    bits = {scheme.bits for scheme in fitting}
    if len(bits) > 1:
        raise ambiguous(packed)
    [its_bits] = bits
    shape = (*lead, columns)
    cell = grid_cell(scale, packed, shape, [scheme.cell for scheme in fitting])
    groups = tensors.take_optional(f"{stem}.weight_g_idx", ("I32", "I64"))
    zero = tensors.take_optional(f"{stem}.weight_zero_point", ("I32", "I8"))
    parts: list[TensorInfo] = [packed, scale, size]
    packed_zeros = zero is not None and zero.encoding == "I32"
    if zero is not None:
        grid = (*lead[:-1], -(-lead[-1] // cell[0]), -(-columns // cell[1]))
        check_shape(zero, (*grid[:-2], -(-grid[-2] * its_bits // 32), grid[-1]) if packed_zeros else scale.shape, scale)
        if packed_zeros and cell[0] != 1:
            raise UnsupportedModelError(f"{zero.path}: {shown(zero.name)} packs zero points that rows share.")
        parts.append(zero)
    if groups is not None:
        check_shape(groups, (columns,), packed)
        # -1 throughout (all bytes 0xff) means that the table is not used.
        if not read_stored(groups).strip(b"\xff"):
            groups = None
        else:
            parts.append(groups)
    decode = GridRows(
        shape, packed, packed_codes(its_bits), scale, cell, zero, its_bits if packed_zeros else None, groups
    )
    tensor = QuantizedTensor(f"{stem}.weight", shape, f"int{its_bits}", tuple(parts), decode)
    tensors.put(_kept_in_8_bits(tensor, decode) if its_bits == 8 else tensor)


def _kept_in_8_bits(tensor: QuantizedTensor, rows: GridRows) -> QuantizedTensor:
    """The tensor, with its 8-bit codes packable if packed blocks can hold them."""
    if not rows.packable:
        return tensor
    return replace(tensor, groups=rows.packed, bits=8, wide=as_wide(rows.cell[1], tensor.shape[1]))


def _groups(config: ConfigKeys) -> list[ConfigKeys]:
    section = config.section("config_groups")
    if section is None:
        return []
    return [group for name in section.values if (group := section.section(name)) is not None]


def _schemes(config: ConfigKeys) -> list[_Scheme]:
    schemes = []
    for group in _groups(config):
        weights = group.section("weights")
        if weights is None:
            continue
        bits = weights.integer("num_bits")
        if bits > 8:
            raise CheckpointError(f"{config.path} quantizes to {bits} bits; at most 8 make sense.")
        schemes.append(_Scheme(bits, _cell(weights)))
    return list(dict.fromkeys(schemes))


def _cell(weights: ConfigKeys) -> Cell:
    size = weights.get("group_size")
    group = None if size == -1 else weights.optional_integer("group_size")
    strategy = weights.text("strategy") or ("tensor" if size is None else "channel" if group is None else "group")
    if strategy == "tensor":
        return WHOLE
    if strategy == "channel" or (strategy == "group" and group is None):
        return PER_ROW
    if strategy in ("group", "tensor_group") and group is not None:
        return (1, group)
    if strategy == "block":
        return block_size(weights, "block_structure")
    raise UnsupportedModelError(
        f"{weights.path} quantizes weights with the strategy {shown(strategy)}, which is not supported; "
        "use an unquantized or a GGUF version of the model."
    )


def block_size(config: ConfigKeys, name: str) -> tuple[int, int]:
    """A pair of positive numbers; older files write "128x128". `CheckpointError` for anything else."""
    value = config.get(name)
    if isinstance(value, str):
        value = [int(part) if part.isascii() and part.isdigit() else 0 for part in value[:40].split("x")]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 31 for size in value)
    ):
        raise CheckpointError(f"{config.path} has {name!r} = {config.get(name)!r}; two whole numbers are needed.")
    return value[0], value[1]
