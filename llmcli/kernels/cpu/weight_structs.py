"""Describe matrices, tables, norms and vectors to the C kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu.support import ENCODINGS
from llmcli.kernels.matrices import matrix_of
from llmcli.model.norm import CenteredRMSNorm, LayerNorm, RMSNorm, Scale, ScaledRMSNorm, WeightlessRMSNorm
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.model.quantized.stored_embedding import StoredEmbedding

_NAMES = {0: "float32", 1: "bfloat16", 2: "int4", 3: "int8"}
_DENSE = {torch.float32: c.FORMATS["float32"], torch.bfloat16: c.FORMATS["bfloat16"]}


class WeightStructs:
    """C structures of weights, and references to all the memory they point to."""

    def __init__(self) -> None:
        self.kept: list[object] = []
        """What must stay in memory."""
        self.dense_layers = False
        """Whether any large matrix of the layers is dense."""
        self.multiplications = 0
        """Multiplications per token in the large matrices of the layers."""
        self._formats: dict[str, None] = {}

    @property
    def formats(self) -> str:
        """The formats of the large matrices, shown to users."""
        return "/".join(self._formats)

    def head(self, head: nn.Module) -> c.Matrix:
        """Describe the output head."""
        matrix = self.matrix(head)
        self._formats[_NAMES[matrix.format]] = None
        return matrix

    def large(self, weights: nn.Module | Tensor, *, bias: Tensor | None = None, share: float = 1.0) -> c.Matrix:
        """Describe a large matrix of a layer, of which tokens are multiplied with a `share` of a stack."""
        matrix = self.matrix(weights, bias=bias)
        self._formats[_NAMES[matrix.format]] = None
        self.dense_layers |= matrix.format in _DENSE.values()
        self.multiplications += round(matrix.count * matrix.rows * matrix.columns * share)
        return matrix

    def matrix(self, weights: nn.Module | Tensor, *, bias: Tensor | None = None) -> c.Matrix:
        """Describe a linear layer, an embedding or parameters: a matrix, or a stack of them.

        Raises:
            NoKernelError: the kernel does not read matrices of this kind.
        """
        values, bias = matrix_of(weights, bias)
        if isinstance(values, PackedMatrix):
            if values.format.wide:
                raise NoKernelError(f"a matrix is packed for GPUs ({values.format})")
            data, number = values.blocks, c.FORMATS[values.bits]
            count, rows, columns = values.shape
            stride, whole = data.nbytes // count, data.is_contiguous()
        else:
            data, number = values, dense_format(values.dtype)
            stack = values if values.dim() == 3 else values[None]
            count, rows, columns = stack.shape
            stride, whole = stack.stride(0) * stack.element_size(), stack[0].is_contiguous()
        if not whole or data.device.type != "cpu":
            raise NoKernelError("a matrix is not contiguous in main memory")
        self.kept.append(data)
        return c.Matrix(
            data=data.data_ptr(),
            bias=None if bias is None else self.floats(bias),
            stride=stride,
            format=number,
            rows=rows,
            columns=columns,
            count=count,
        )

    def table(self, table: nn.Module) -> c.Table:
        """Describe embeddings that are only looked up.

        Raises:
            NoKernelError: the kernel does not read tables of this kind.
        """
        if not isinstance(table, StoredEmbedding):
            return c.Table(matrix=self.matrix(table))
        if table.format.encoding not in ENCODINGS:
            raise NoKernelError(f"per-layer embeddings are stored as {table.format.encoding}")
        self.kept.append(table.stored)
        return c.Table(
            blocks=table.stored.data_ptr(),
            row_bytes=table.stored.shape[1],
            encoding=ENCODINGS.index(table.format.encoding),
        )

    def norm(self, norm: nn.Module) -> c.Norm:
        """Describe a norm, a constant factor, or neither.

        Raises:
            NoKernelError: the kernel does not compute norms of this kind.
        """
        match norm:
            case nn.Identity():
                return c.Norm(kind=c.NO_NORM)
            case Scale():
                return c.Norm(kind=c.SCALED, factor=norm.factor)
            case CenteredRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self.floats(norm.weight.float() + 1))
            case ScaledRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self.floats(norm.weight.float() * norm.factor))
            case WeightlessRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps)
            case RMSNorm():
                each = norm.weight.dim() > 1
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self.floats(norm.weight), each_head=each)
            case LayerNorm():
                weight = None if norm.weight is None else self.floats(norm.weight.float() + norm.plus_one)
                bias = None if norm.bias is None else self.floats(norm.bias)
                each = norm.weight is not None and norm.weight.dim() > 1
                return c.Norm(kind=c.LAYER_NORM, eps=norm.eps, weight=weight, bias=bias, each_head=each)
            case _:
                raise NoKernelError(f"a norm is of the kind {type(norm).__name__}")

    def small(self, linear: nn.Module) -> int:
        """The address of a float32 copy of a small dense matrix.

        Raises:
            NoKernelError: the matrix is packed.
        """
        values, _ = matrix_of(linear)
        if isinstance(values, PackedMatrix):
            raise NoKernelError("a matrix that is read in float32 is packed")
        return self.floats(values)

    def floats(self, values: Tensor) -> int:
        """The address of a float32 copy of the values, for small vectors."""
        copy = values.detach().float().contiguous()
        self.kept.append(copy)
        return copy.data_ptr()


def dense_format(dtype: torch.dtype) -> int:
    """The kernel's number of a data type.

    Raises:
        NoKernelError: it does not compute with this type.
    """
    if dtype not in _DENSE:
        raise NoKernelError(f"the weights are in {str(dtype).removeprefix('torch.')}")
    return _DENSE[dtype]
