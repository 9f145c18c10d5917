"""Stacks of experts as MLX stores them, one tensor for gate, up and down each, taken apart into single experts.

The stack `mlp.switch_mlp.up_proj.weight` (E, N, K) becomes `mlp.switch_mlp.0.up_proj.weight` (N, K) and so on: names
and shapes as most models have them, whether the weights are quantized or not. No bytes move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from llmcli.checkpoint.tensors.tensor_info import TensorInfo

_STACK = re.compile(r"(.*\.(?:switch_mlp|switch_glu|experts))\.((?:gate|up|down)_proj)\.(\w+)")
_SINGLE = re.compile(r"(.*\.(?:switch_mlp|switch_glu|experts))\.\d+\.((?:gate|up|down)_proj)")
# Dimensions of a stack, by the last part of its name.
_DIMENSIONS = {"weight": 3, "scales": 3, "biases": 3, "bias": 2, "global_scale": 1}
# More than any model has; a damaged header could state billions.
_MOST_EXPERTS = 10_000


def without_stacks(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors, with each stack of experts replaced by its parts."""
    return {info.name: info for whole in tensors.values() for info in _parts(whole)}


def stack_of(module: str) -> str:
    """The name of the stack that an expert's matrix was part of; other names unchanged."""
    return _SINGLE.sub(r"\1.\2", module)


def part_of_stack(info: TensorInfo, expert: int, name: str) -> TensorInfo:
    """The part of a stack that belongs to one expert, as a tensor of that `name`."""
    size = info.nbytes // info.rows
    return replace(info, name=name, shape=info.shape[1:], offset=info.offset + expert * size, nbytes=size)


def _parts(info: TensorInfo) -> Iterator[TensorInfo]:
    match = _STACK.fullmatch(info.name) if "_proj." in info.name else None
    if match is None or len(info.shape) != _DIMENSIONS.get(match[3]) or not 0 < info.rows <= _MOST_EXPERTS:
        yield info
        return
    for expert in range(info.rows):
        yield part_of_stack(info, expert, f"{match[1]}.{expert}.{match[2]}.{match[3]}")
