"""Weights of GPTQ and AWQ: integer codes packed into 32-bit words, transposed (weight rows are columns in the file).

N: outputs (rows of the weight), K: inputs, G: groups of inputs that share a scale and a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.quantized.base import (
    FLOATS,
    QuantizedTensor,
    TensorPool,
    as_wide,
    check_matrix,
    check_shape,
    dequantized,
    grouped,
    packable,
    read_groups,
    read_whole,
    unpacked,
)
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader
    from llmcli.model.quantized.matrix import Groups

GPTQ_BITS = (2, 3, 4, 8)

# Bit offsets of the weight's columns 8c, 8c + 1, ... in word c.
_AWQ_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


@dataclass(frozen=True)
class GptqRows:
    """Decodes rows of `W[n, k] = scales[g[k], n] * (q[k, n] - z[g[k], n])`, q packed along K and z along N."""

    parts: tuple[TensorInfo, TensorInfo, TensorInfo]
    """qweight int32 (K * bits / 32, N), qzeros int32 (G, N * bits / 32), scales (G, N)."""
    groups: TensorInfo | None
    """The group of each input, integers (K,); None if groups are `group_size` consecutive inputs."""
    group_size: int
    bits: int
    zero_offset: int
    """Added to stored zero points, modulo 2^bits: 1 in the first version of the format."""

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 (rows, K)."""
        import torch

        codes, scales, zeros = self._numbers(reader, start, stop)
        if self.groups is None:
            groups = torch.arange(codes.shape[1]) // self.group_size
        else:
            groups = read_groups(reader, self.groups, scales.shape[1])
        return dequantized(codes, scales, zeros, groups)

    def packed(self, reader: RowReader, start: int, stop: int) -> Groups:
        """Rows `start` to `stop` as codes and scales.

        Raises:
            CheckpointError: groups are out of order, or zero points of 8-bit codes are not 128, contrary to the
                configuration.
        """
        import torch

        codes, scales, zeros = self._numbers(reader, start, stop)
        if self.groups is not None:
            table = read_groups(reader, self.groups, scales.shape[1])
            if not torch.equal(table, torch.arange(len(table)) // self.group_size):
                raise CheckpointError(
                    f"{self.groups.path}: tensor {shown(self.groups.name)} assigns inputs in another order, which "
                    "the configuration does not mention. Use --dtype bfloat16 to load the model."
                )
        if self.bits == 8 and bool((zeros != 128).any()):
            info = self.parts[1]
            raise CheckpointError(
                f"{info.path}: tensor {shown(info.name)} has zero points other than 128, though the configuration says "
                "that its numbers are symmetric. Use --dtype bfloat16 to load the model."
            )
        return grouped(codes, scales, None if self.bits == 8 else zeros, self.group_size)

    def _numbers(self, reader: RowReader, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (n, K), scales and zero points (n, G)."""
        qweight, qzeros, scales = read_whole(reader, self.parts)
        codes = unpacked(qweight[:, start:stop].T.contiguous(), self.bits)  # (n, K)
        # 32 values fill `bits` words.
        first, last = start // 32, -(-stop // 32)
        zeros = unpacked(qzeros[:, first * self.bits : last * self.bits], self.bits)
        zeros = zeros[:, start - first * 32 :][:, : stop - start].T  # (n, G)
        return codes, scales[:, start:stop].T, (zeros + self.zero_offset) & ((1 << self.bits) - 1)


@dataclass(frozen=True)
class AwqRows:
    """Decodes rows of `W[n, k] = scales[k // group_size, n] * (q[k, n] - z[k // group_size, n])`, packed along N."""

    parts: tuple[TensorInfo, TensorInfo, TensorInfo]
    """qweight int32 (K, N / 8), qzeros int32 (G, N / 8), scales (G, N)."""
    group_size: int

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32 (rows, K)."""
        import torch

        codes, scales, zeros = self._numbers(reader, start, stop)
        return dequantized(codes, scales, zeros, torch.arange(codes.shape[1]) // self.group_size)

    def packed(self, reader: RowReader, start: int, stop: int) -> Groups:
        """Rows `start` to `stop` as codes and scales."""
        return grouped(*self._numbers(reader, start, stop), self.group_size)

    def _numbers(self, reader: RowReader, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (n, K), scales and zero points (n, G)."""
        qweight, qzeros, scales = read_whole(reader, self.parts)
        codes, zeros = (_awq_columns(words, start, stop) for words in (qweight, qzeros))
        return codes, scales[:, start:stop].T, zeros


def _awq_columns(words: Tensor, start: int, stop: int) -> Tensor:
    """Columns `start` to `stop` of the numbers in words (R, N / 8), as rows: (stop - start, R)."""
    import torch

    first = start // 8
    shifts = torch.tensor(_AWQ_SHIFTS, dtype=torch.int32).unsqueeze(1)
    # Transpose the words rather than the numbers, which are 8 times as many.
    rows = words[:, first : -(-stop // 8)].T.contiguous().unsqueeze(1)  # (words, 1, R)
    return (rows >> shifts & 15).flatten(0, 1)[start - first * 8 :][: stop - start]


def collapse_gptq(
    tensors: TensorPool,
    *,
    bits: int,
    group_size: int | None,
    zero_offset: int,
    uniform: bool = True,
    in_order: bool = False,
    symmetric: bool = False,
) -> None:
    """Replace `X.qweight`, `X.qzeros`, `X.scales` and `X.g_idx` by `X.weight`.

    `group_size` is None if all inputs are one group. Unless the checkpoint is `uniform`, sizes may differ between
    modules and are derived from each module's tensors. `in_order` promises that groups are consecutive inputs, even if
    there is a table of groups; `symmetric` that zero points are in the middle. Packing relies on both.

    Raises:
        CheckpointError: shapes that contradict each other or the configuration.
    """
    for stem in tensors.stems(".qweight"):
        qweight = tensors.take(f"{stem}.qweight", ("I32",))
        qzeros = tensors.take(f"{stem}.qzeros", ("I32",), beside=qweight)
        scales = tensors.take(f"{stem}.scales", FLOATS, beside=qweight)
        g_idx = tensors.take_optional(f"{stem}.g_idx", ("I32", "I64"))
        words, outputs = check_matrix(qweight)
        groups = check_matrix(scales)[0]
        its_bits = bits if uniform else check_matrix(qzeros)[1] * 32 // outputs
        if its_bits not in GPTQ_BITS:
            raise CheckpointError(f"{qzeros.path}: tensor {shown(qzeros.name)} would have {its_bits}-bit numbers.")
        inputs = words * 32 // its_bits
        its_group_size = inputs if group_size is None else group_size
        if not uniform:
            its_group_size = -(-inputs // groups)
        if inputs * its_bits != words * 32:
            raise CheckpointError(
                f"{qweight.path}: tensor {shown(qweight.name)} has {words} rows, "
                f"which {its_bits}-bit numbers cannot fill."
            )
        check_shape(scales, (-(-inputs // its_group_size), outputs), qweight)
        check_shape(qzeros, (groups, outputs * its_bits // 32), scales)
        if outputs * its_bits % 32:
            raise CheckpointError(
                f"{qweight.path}: tensor {shown(qweight.name)} has {outputs} columns; "
                f"their {its_bits}-bit zero points do not fill whole words."
            )
        if g_idx is not None:
            check_shape(g_idx, (inputs,), qweight)
        parts = (qweight, qzeros, scales)
        rows = GptqRows(parts, g_idx, its_group_size, its_bits, zero_offset)
        keeps = (in_order or g_idx is None) and packable(scales, its_group_size, inputs)
        tensors.put(
            QuantizedTensor(
                name=f"{stem}.weight",
                shape=(outputs, inputs),
                encoding=f"GPTQ {its_bits}-bit",
                parts=parts if g_idx is None else (*parts, g_idx),
                decode=rows,
                groups=rows.packed if keeps and (its_bits <= 4 or symmetric) else None,
                bits=4 if its_bits <= 4 else 8,
                wide=as_wide(its_group_size, inputs),
            )
        )


def collapse_awq(tensors: TensorPool, *, group_size: int | None) -> None:
    """Replace `X.qweight`, `X.qzeros` and `X.scales`, AWQ's 4-bit "gemm" layout, by `X.weight`.

    Raises:
        CheckpointError: shapes that contradict each other or the configuration.
    """
    for stem in tensors.stems(".qweight"):
        qweight = tensors.take(f"{stem}.qweight", ("I32",))
        qzeros = tensors.take(f"{stem}.qzeros", ("I32",), beside=qweight)
        scales = tensors.take(f"{stem}.scales", FLOATS, beside=qweight)
        inputs, words = check_matrix(qweight)
        size = inputs if group_size is None else group_size
        groups = -(-inputs // size)
        check_shape(scales, (groups, words * 8), qweight)
        check_shape(qzeros, (groups, words), qweight)
        parts = (qweight, qzeros, scales)
        rows = AwqRows(parts, size)
        keep = rows.packed if packable(scales, size, inputs) else None
        wide = as_wide(size, inputs)
        tensors.put(QuantizedTensor(f"{stem}.weight", (words * 8, inputs), "AWQ 4-bit", parts, rows, keep, wide=wide))
