"""A model's weights for the Triton kernels: its matrices without a copy, and float32 copies of small vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.matrices import matrix_of
from llmcli.model.norm import CenteredRMSNorm, LayerNorm, RMSNorm, Scale, ScaledRMSNorm, WeightlessRMSNorm
from llmcli.model.quantized.layout import PackedFormat
from llmcli.model.quantized.matrix import PackedMatrix

_DENSE = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class DeviceMatrix:
    """A dense or packed matrix, or a stack of them."""

    data: Tensor
    """Dense values, or packed blocks as 32-bit words."""
    packing: PackedFormat | None
    """The packed format; None: dense."""
    rows: int
    columns: int
    bias: Tensor | None

    def same_format(self, other: DeviceMatrix) -> bool:
        """Whether one kernel launch can read both matrices."""
        return (self.packing, self.data.dtype, self.bias is None) == (
            other.packing,
            other.data.dtype,
            other.bias is None,
        )

    @property
    def bits(self) -> int:
        """Bits of a packed code; 0: dense."""
        return 0 if self.packing is None else self.packing.bits

    @property
    def group(self) -> int:
        """Columns that share a scale; 0: a whole row, or no scales."""
        return 0 if self.packing is None else self.packing.group or 0

    @property
    def stride(self) -> int:
        """Elements of `data` from one matrix of a stack to the next."""
        if self.packing is None:
            return self.rows * self.columns
        return self.packing.nbytes(self.rows, self.columns) // 4


@dataclass(frozen=True)
class DeviceNorm:
    """A norm; `kind` is the number in `kernels/triton/prologue.py`: 0 for none."""

    kind: int
    weight: Tensor
    bias: Tensor
    eps: float


def matrix(weights: nn.Module | Tensor, *, bias: Tensor | None = None) -> DeviceMatrix:
    """The matrix, or stack of matrices, of a linear layer, an embedding or parameters.

    Raises:
        NoKernelError: the kernels do not support its format.
    """
    values, bias = matrix_of(weights, bias)
    added = None if bias is None else floats(bias)
    if isinstance(values, PackedMatrix):
        if not values.format.wide:
            raise NoKernelError(f"a matrix is packed for CPUs ({values.format})")
        return DeviceMatrix(values.blocks.view(torch.int32), values.format, values.rows, values.columns, added)
    if values.dtype not in _DENSE or not values.is_contiguous():
        raise NoKernelError(f"a matrix is in {str(values.dtype).removeprefix('torch.')}, or not contiguous")
    return DeviceMatrix(values.detach(), None, values.shape[-2], values.shape[-1], added)


def norm(module: nn.Module, size: int, device: torch.device) -> DeviceNorm:
    """Convert a norm `module` over `size` values; `nn.Identity` becomes kind 0.

    Raises:
        NoKernelError: the kernels do not support this kind of norm.
    """
    ones, zeros = torch.ones(size, device=device), torch.zeros(size, device=device)
    match module:
        case nn.Identity():
            return DeviceNorm(0, ones, zeros, 0.0)
        case CenteredRMSNorm():
            return DeviceNorm(1, _spread(module.weight.float() + 1, size), zeros, module.eps)
        case ScaledRMSNorm():
            return DeviceNorm(1, _spread(module.weight.float() * module.factor, size), zeros, module.eps)
        case RMSNorm():
            return DeviceNorm(1, _spread(module.weight, size), zeros, module.eps)
        case WeightlessRMSNorm():
            return DeviceNorm(1, ones, zeros, module.eps)
        case LayerNorm():
            weight = ones if module.weight is None else _spread(module.weight.float() + module.plus_one, size)
            return DeviceNorm(2, weight, zeros if module.bias is None else _spread(module.bias, size), module.eps)
        case _:
            raise NoKernelError(f"a norm is of the kind {type(module).__name__}")


def factor_of(module: nn.Module) -> float | None:
    """The factor of a `Scale`, which some models have in place of an output norm; None for a norm."""
    return module.factor if isinstance(module, Scale) else None


def floats(values: Tensor) -> Tensor:
    """A contiguous float32 copy, for small vectors."""
    return values.detach().float().contiguous().clone()


def _spread(values: Tensor, size: int) -> Tensor:
    """Repeat the values, those of one head, to `size` values."""
    flat = floats(values).flatten()
    return flat.repeat(size // len(flat))
