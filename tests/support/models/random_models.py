"""Random packed weights, and tiny random models that hold them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.model import Transformer
from llmcli.model.mixture_of_experts import ExpertWeights
from llmcli.model.quantized.layout import Bits, PackedFormat, narrow, wide
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedEmbedding, QuantizedLinear
from llmcli.model.quantized.quantize import quantize
from llmcli.model.quantized.stored_embedding import StoredEmbedding
from tests.support.models.tiny_checkpoints import shared_checkpoint

_DENSE = ("shared_expert_gate", "kv_b_proj", "correction_coefs", "prediction_coefs", "modality_router")
WIDE = (wide(4), wide(8), wide(4, 32), wide(8, 32), wide(8, 128))
FORMATS = (narrow(4), narrow(8), *WIDE)


def of_bits(kept: PackedFormat | Bits) -> PackedFormat:
    """`kept`, or the CPU format with that number of bits."""
    return kept if isinstance(kept, PackedFormat) else narrow(kept)


def random_groups(kept: PackedFormat | Bits, rows: int, columns: int, *, seed: int = 0, scale: float = 1.0) -> Groups:
    """Codes over their whole range, with different scales and minima in each group."""
    kept = of_bits(kept)
    random = torch.Generator().manual_seed(seed)
    width = kept.groups(columns)
    codes = torch.randint(0, 1 << kept.bits, (rows, columns), generator=random, dtype=torch.uint8)
    scales = (torch.rand(rows, width, generator=random) + 0.5) * scale / (1 << kept.bits)
    minima = -8 * scales * (torch.rand(rows, width, generator=random) * 0.4 + 0.8)
    scales = scales.half() if kept.group else scales
    return Groups(codes, scales, minima.half() if kept.bits == 4 else None, kept.group)


def packed(
    groups: Groups,
    kept: PackedFormat | Bits,
    *,
    dtype: torch.dtype = torch.float32,
    values_at_once: int | None = None,
) -> PackedMatrix:
    """One matrix of those groups."""
    matrix = PackedMatrix(of_bits(kept), *groups.codes.shape, dtype=dtype, values_at_once=values_at_once)
    matrix.store(0, 0, groups)
    return matrix


def pack_model(model: Transformer, kept: PackedFormat | Bits) -> Transformer:
    """Pack all large matrices of the model, in place; those that stay dense are the same as while loading."""
    kept = of_bits(kept)
    model.requires_grad_(False)

    def matrix(values: torch.Tensor) -> PackedMatrix:
        stack = values if values.dim() == 3 else values[None]
        made = PackedMatrix(kept, *stack.shape[1:], dtype=model_dtype, count=len(stack))
        for index, part in enumerate(stack):
            made.store(index, 0, quantize(part, kept))
        return made

    model_dtype = model.dtype
    for module in list(model.modules()):
        if isinstance(module, ExpertWeights):
            for name in ("gate_up_proj" if module.gated else "up_proj", "down_proj"):
                made = matrix(getattr(module, name))
                delattr(module, name)
                setattr(module, name, made)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name not in (*_DENSE, "lm_head"):
                linear = QuantizedLinear(matrix(child.weight), bias=child.bias is not None)
                linear.bias = child.bias
                setattr(module, name, linear)
    head = QuantizedLinear(matrix(model.lm_head.weight), bias=model.lm_head.bias is not None)
    head.bias = model.lm_head.bias
    tied = model.config.tie_embeddings
    model.embed_tokens = QuantizedEmbedding(head.matrix if tied else matrix(model.embed_tokens.weight))
    model.lm_head = head
    return model


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Activations as the kernel quantizes them for packed weights: 16 bits, with a scale for every 32."""
    padded = nn.functional.pad(x, (0, -x.shape[-1] % 32))
    groups = padded.view(*x.shape[:-1], -1, 32)
    scale = groups.abs().amax(-1, keepdim=True) / 32512
    return ((groups / scale.clamp(min=1e-30)).round() * scale).view_as(padded)[..., : x.shape[-1]]


class RoundingFunctional:
    """`torch.nn.functional` whose products with dequantized weights round their input first."""

    def __getattr__(self, name: str) -> Any:
        return getattr(nn.functional, name)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return nn.functional.linear(x if isinstance(weight, nn.Parameter) else rounded(x), weight, bias)


def in_bfloat16(model: Transformer) -> Transformer:
    """A copy of the model in bfloat16."""
    return _in_type(model, torch.bfloat16)


def in_float32(model: Transformer) -> Transformer:
    """A copy of the model in float32."""
    return _in_type(model, torch.float32)


def _in_type(model: Transformer, dtype: torch.dtype) -> Transformer:
    made = copy.deepcopy(model).to(dtype)
    for module in made.modules():
        if isinstance(module, StoredEmbedding):
            module.dtype = dtype
    return made


def random_model(model_type: str, **overrides: Any) -> Transformer:
    """Our model of a tiny random checkpoint of a family, in float32."""
    checkpoint = open_checkpoint(shared_checkpoint(model_type, **overrides))
    return load_weights(checkpoint, torch.device("cpu"), torch.float32)
