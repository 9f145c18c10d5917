"""Shapes and storage of parameters, and those of the smallest modules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llmcli.model.config import NormStyle

Shape = tuple[int, ...]
Named = Iterator[tuple[str, "ParameterInfo"]]


@dataclass(frozen=True)
class ParameterInfo:
    """Shape and storage type of a parameter."""

    shape: Shape
    float32: bool = False
    """Kept in float32 in a model of any type: the choice of experts depends on small differences."""
    below: int | None = None
    """The values are whole numbers from 0 to below this, kept as int64; None: they are not."""

    @property
    def values(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


def linear(inputs: int, outputs: int, *, bias: bool = False) -> Named:
    """Those of `nn.Linear`."""
    yield "weight", ParameterInfo((outputs, inputs))
    if bias:
        yield "bias", ParameterInfo((outputs,))


def norm_weights(shape: Shape, style: NormStyle, *, may_have_bias: bool = True) -> Named:
    """Those of `make_norm` for weights of `shape`."""
    if style.weight and style.kind != "none":
        yield "weight", ParameterInfo(shape, float32=style.float32)
    if style.kind == "layer" and style.bias and may_have_bias:
        yield "bias", ParameterInfo(shape)


def within(module: str, parameters: Named) -> Named:
    """The same parameters, with the name of the module around them."""
    for name, parameter in parameters:
        yield f"{module}.{name}", parameter
