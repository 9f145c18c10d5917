"""Find the matrix of a layer, dense or packed."""

from __future__ import annotations

from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedEmbedding, QuantizedLinear


def matrix_of(weights: nn.Module | Tensor, bias: Tensor | None = None) -> tuple[PackedMatrix | Tensor, Tensor | None]:
    """The matrix of a linear layer or embedding, or `weights` if it is a matrix; and the layer's bias, else `bias`.

    Raises:
        NoKernelError: no kernel reads matrices of this type.
    """
    values: PackedMatrix | Tensor
    if isinstance(weights, QuantizedLinear | QuantizedEmbedding):
        values = weights.matrix
    elif isinstance(weights, nn.Linear | nn.Embedding):
        values = weights.weight
    elif isinstance(weights, Tensor | PackedMatrix):
        values = weights
    else:
        raise NoKernelError(f"a matrix is kept as {type(weights).__name__}")
    return values, weights.bias if isinstance(weights, nn.Linear | QuantizedLinear) else bias
