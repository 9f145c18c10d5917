"""Weights that MLX quantized: `X.weight` in words of 32 bits, `X.scales` and, in the mode "affine", `X.biases`.

The codes of a row are packed densely, lowest bits first, so that 3, 5 and 6 bits span words. Layouts and formulas are
those of `mlx.core.quantize`. N: rows, K: columns, W: words of a row, G: groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.huggingface.stacked_experts import stack_of
from llmcli.checkpoint.quantized.base import (
    FLOATS,
    QuantizedTensor,
    TensorPool,
    as_wide,
    check_shape,
    unpacked,
)
from llmcli.checkpoint.quantized.scaled_codes import GridRows, check_one_number, float_codes, fp4_codes, too_large
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model.quantized.layout import COLUMNS

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader
    from llmcli.model.quantized.matrix import Groups

BITS = (1, 2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
# Each of these modes has one number of bits and one group size.
_FLOAT_MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
# The largest NVFP4 number, 6, times the largest scale, 448: a global scale is that of a weight's largest value.
_NVFP4_LARGEST = 6 * 448
_WORD = 32


@dataclass(frozen=True)
class AffineRows:
    """Decodes rows of `W[n, k] = scales[n, k // group] * q[n, k] + biases[n, k // group]`."""

    weight: TensorInfo
    """The words, as I32: (N, W), or (E, N, W) for a stack."""
    scales: TensorInfo
    biases: TensorInfo
    bits: int
    group: int

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows or matrices `start` to `stop`, float32 (all rows of these, K)."""
        codes, scales, biases = self._numbers(reader, start, stop)
        values = codes.float().view(*scales.shape, self.group)
        return values.mul_(scales.float()[..., None]).add_(biases.float()[..., None]).flatten(1)

    def packed(self, reader: RowReader, start: int, stop: int) -> Groups:
        """Rows `start` to `stop` as codes, scales and minima, for codes of up to 4 bits.

        Half-precision numbers are kept, and bfloat16 numbers of at least 2^-17; a smaller one is off by 2^-25 at most.

        Raises:
            CheckpointError: a number is too large for half precision.
        """
        import torch

        from llmcli.model.quantized.matrix import Groups

        codes, *numbers = self._numbers(reader, start, stop)
        scales, biases = (part.half().repeat_interleave(self.group // COLUMNS, 1) for part in numbers)
        for info, part in ((self.scales, scales), (self.biases, biases)):
            if not bool(part.isfinite().all()):
                raise too_large(info)
        return Groups(codes.to(torch.uint8), scales, biases)

    def _numbers(self, reader: RowReader, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (R, K), of any integer type, scales and biases (R, G)."""
        words, scales, biases = (
            reader.read_rows(info, start, stop).reshape(-1, info.shape[-1])
            for info in (self.weight, self.scales, self.biases)
        )
        return _codes(words, self.bits), scales, biases


def _codes(words: Tensor, bits: int) -> Tensor:
    """Unpack int32 words (R, W): (R, K). Codes that do not cross bytes are unpacked from bytes, four times as fast."""
    import torch

    if 8 % bits:
        return unpacked(words, bits)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return (words.contiguous().view(torch.uint8).unsqueeze(-1) >> shifts & (1 << bits) - 1).flatten(1)


Affine = tuple[int, int]
"""Bits of a code and size of a group."""


def collapse_mlx(tensors: TensorPool, config: ConfigKeys) -> None:
    """Replace `X.weight`, `X.scales` and `X.biases` by `X.weight`.

    A module is quantized if it has scales. Its settings are those under its name, or the general ones; if they do not
    fit the shapes, the sizes of groups and codes that do, as in mlx-lm.

    Raises:
        CheckpointError: parts are missing, or shapes that contradict each other or the configuration.
        UnsupportedModelError: an unknown mode, number of bits or group size.
    """
    general = _settings(config)
    for stem in tensors.stems(".scales"):
        scales = tensors.take(f"{stem}.scales", (*FLOATS, "U8"))
        weight = tensors.take(f"{stem}.weight", ("U32",), beside=scales)
        settings = _of_module(config, stem, general, scales)
        if len(weight.shape) not in (2, 3) or weight.shape[:-1] != scales.shape[:-1]:
            check_shape(scales, (*weight.shape[:-1], *scales.shape[-1:]), weight)
            raise CheckpointError(
                f"{weight.path}: tensor {shown(weight.name)} has shape {list(weight.shape)}, not two or three sizes."
            )
        if scales.encoding == "U8":
            tensors.put(_floats(tensors, stem, weight, scales))
        else:
            tensors.put(_affine(tensors, stem, weight, scales, settings))


def _affine(
    tensors: TensorPool, stem: str, weight: TensorInfo, scales: TensorInfo, settings: Affine | None
) -> QuantizedTensor:
    biases = tensors.take(f"{stem}.biases", FLOATS, beside=weight)
    check_shape(biases, scales.shape, scales)
    fitting = _fitting(weight, scales, settings)
    if fitting is None:
        wanted = "" if settings is None else f" with {settings[0]} bits and groups of {settings[1]}"
        raise CheckpointError(
            f"{scales.path}: tensor {shown(scales.name)} has shape {list(scales.shape)}, which does not match "
            f"{shown(weight.name)} of shape {list(weight.shape)}{wanted}. Download the model again."
        )
    bits, group = fitting
    columns = scales.shape[-1] * group
    rows = AffineRows(replace(weight, encoding="I32"), scales, biases, bits, group)
    exact = bits <= 4 and len(weight.shape) == 2 and {scales.encoding, biases.encoding} <= {"F16", "BF16"}
    return QuantizedTensor(
        name=f"{stem}.weight",
        shape=(*weight.shape[:-1], columns),
        encoding=f"MLX {bits}-bit",
        parts=(weight, scales, biases),
        decode=rows,
        groups=rows.packed if exact else None,
        bits=4,
        wide=as_wide(group, columns),
    )


def _floats(tensors: TensorPool, stem: str, weight: TensorInfo, scales: TensorInfo) -> QuantizedTensor:
    """A weight of FP4 or FP8 numbers, whose mode follows from the sizes of its parts."""
    bits_by_group = _bits_by_group(weight, scales)
    mode = next((mode for mode, (bits, group) in _FLOAT_MODES.items() if bits * group == bits_by_group), None)
    if mode is None:
        raise CheckpointError(
            f"{scales.path}: tensor {shown(scales.name)} has shape {list(scales.shape)}, which matches "
            f"{shown(weight.name)} of shape {list(weight.shape)} in none of the modes {', '.join(_FLOAT_MODES)}. "
            "Download the model again."
        )
    bits, group = _FLOAT_MODES[mode]
    shape = (*weight.shape[:-1], scales.shape[-1] * group)
    stored = replace(
        weight, encoding="U8" if bits == 4 else "F8_E4M3", shape=(*weight.shape[:-1], 4 * weight.shape[-1])
    )
    parts: tuple[TensorInfo, ...] = (weight, scales)
    factor = tensors.take_optional(f"{stem}.global_scale", FLOATS) if mode == "nvfp4" else None
    if factor is not None:
        check_one_number(factor, weight.shape[:-2], weight)
        parts = (*parts, factor)
    rows = GridRows(
        shape,
        stored,
        fp4_codes if bits == 4 else float_codes,
        replace(scales, encoding="F8_E4M3") if mode == "nvfp4" else scales,
        (1, group),
        global_scale=factor,
        global_unit=_NVFP4_LARGEST,
        fraction=2 if mode == "mxfp4" else 1,
    )
    name = f"{stem}.weight"
    groups = rows.packed if mode == "mxfp4" and len(shape) == 2 else None
    return QuantizedTensor(name, shape, mode.upper(), parts, rows, groups, 8, as_wide(group, shape[-1]))


def _bits_by_group(weight: TensorInfo, scales: TensorInfo) -> int:
    """The number of bits times the group size that the shapes show; 0 if there is none."""
    words, groups = weight.shape[-1] * _WORD, scales.shape[-1]
    return 0 if words % groups else words // groups


def _fitting(weight: TensorInfo, scales: TensorInfo, settings: Affine | None) -> Affine | None:
    """The bits and group size that fit the shapes: as in the settings, or with the same group size or bits."""
    product = _bits_by_group(weight, scales)
    bits, group = settings or (0, 0)
    candidates = [(bits, group)]
    if settings is not None:
        candidates += [(product // group, group), (bits, product // bits)]
    candidates += [(product // size, size) for size in GROUP_SIZES]
    return next(
        ((bits, size) for bits, size in candidates if bits in BITS and size in GROUP_SIZES and bits * size == product),
        None,
    )


def _of_module(config: ConfigKeys, stem: str, general: Affine | None, scales: TensorInfo) -> Affine | None:
    """The settings of the module `stem`; experts have those of their stack."""
    name = next((name for name in (stem, stack_of(stem)) if name in config.values), None)
    value = True if name is None else config.values[name]
    if value is False:
        raise CheckpointError(
            f"{config.path} says that {shown(str(name))} is not quantized, but {scales.path} holds "
            f"{shown(scales.name)}. Download the model again."
        )
    if value is True:
        return general
    module = config.section(str(name))
    return general if module is None else _settings(module)


def _settings(config: ConfigKeys) -> Affine | None:
    """Bits and group size; None for the modes that have only one of each."""
    mode = config.text("mode") or "affine"
    if mode in _FLOAT_MODES:
        return None
    bits, group = config.optional_integer("bits") or 4, config.optional_integer("group_size") or 64
    what = None
    if mode != "affine":
        what = f"in the mode {shown(mode)}"
    elif bits not in BITS:
        what = f"with {bits} bits"
    elif group not in GROUP_SIZES:
        what = f"in groups of {group}"
    if what is not None:
        raise UnsupportedModelError(
            f"{config.path} says that the weights are quantized by MLX {what}, which is not supported; "
            "use an unquantized or a GGUF version of the model."
        )
    return bits, group
