"""BitNet's ternary weights (Ma et al. 2024, arXiv:2402.17764): -1, 0 or 1 times one number for each matrix.

Files hold them packed, four in a byte, or as the floats of training, which are rounded when the model is loaded. The
activations, which training rounds to 8 bits, are not rounded here.

Dimension letters: N rows, K columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.checkpoint.quantized.base import FLOATS, QuantizedTensor, TensorPool, check_matrix, check_shape, flat
from llmcli.checkpoint.tensors.tensor_info import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.checkpoint.tensors.tensor_info import RowReader

_IN_A_BYTE = 4
_ROUNDED = re.compile(r".*\.(self_attn|mlp)\.\w+_proj\.weight")
# Rows whose magnitudes are summed at a time.
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class _Packed:
    """Decodes rows of packed weights: byte (r, k) holds rows r, r + N / 4, r + N / 2, ... of column k."""

    packed: TensorInfo
    scale: TensorInfo
    divides: bool
    """Whether the weights are divided by the scale instead of multiplied."""

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """(rows, K), float32."""
        import torch

        height = self.packed.rows
        parts = []
        while start < stop:
            place, first = divmod(start, height)
            end = min(height, first + stop - start)
            codes = reader.read_rows(self.packed, first, end).to(torch.uint8)
            parts.append((codes >> 2 * place & 3).float() - 1)
            start += end - first
        scale = float(reader.read_rows(flat(self.scale), 0, 1))
        return torch.cat(parts) * (1 / scale if self.divides else scale)


@dataclass
class _Rounded:
    """Decodes rows of the floats of training, rounded to -m, 0 or m, with m the mean magnitude of the matrix."""

    weight: TensorInfo
    _mean: float | None = None

    def __call__(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """(rows, K), float32."""
        if self._mean is None:
            starts = range(0, self.weight.rows, _ROWS_AT_ONCE)
            parts = (reader.read_rows(self.weight, at, min(at + _ROWS_AT_ONCE, self.weight.rows)) for at in starts)
            self._mean = max(sum(float(rows.double().abs().sum()) for rows in parts) / self.weight.values, 1e-5)
        rows = reader.read_rows(self.weight, start, stop).float()
        return (rows / self._mean).round().clamp(-1, 1) * self._mean


def collapse_bitnet(tensors: TensorPool, *, divides: bool) -> None:
    """Replace `P.weight` (N / 4, K) and `P.weight_scale` by P.weight of shape (N, K).

    Raises:
        CheckpointError: a weight has no scale, or one of another shape.
    """
    for stem in tensors.stems(".weight_scale"):
        scale = tensors.take(f"{stem}.weight_scale", FLOATS)
        packed = tensors.take(f"{stem}.weight", ("U8",), beside=scale)
        height, width = check_matrix(packed)
        check_shape(flat(scale), (1,), packed)
        shape = (_IN_A_BYTE * height, width)
        decode = _Packed(packed, scale, divides)
        tensors.put(QuantizedTensor(f"{stem}.weight", shape, "BITNET", (packed, scale), decode))


def round_bitnet(tensors: TensorPool) -> None:
    """Round the matrices of attention and feed-forward, which are stored as the floats of training."""
    for name in [name for name in tensors.left if _ROUNDED.fullmatch(name)]:
        weight = tensors.take(name, FLOATS)
        tensors.put(QuantizedTensor(name, check_matrix(weight), weight.encoding, (weight,), _Rounded(weight)))
