"""Tiny random models that together use all features of the kernels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from llmcli.model import ExpertsConfig, LatentConfig, LayerConfig, ModelConfig, NormStyle, RopeConfig, Transformer
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, RglruConfig, ShortConvConfig
from llmcli.model.mixture_of_experts import ExpertWeights
from llmcli.model.quantized.layout import PackedFormat
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedEmbedding, QuantizedLinear

_SEED = 7
_EXPERTS = ExpertsConfig(4, 2, 32, normalized=True, router_bias=True, bias=True, shared_size=32)
# Scales that make attention weights unequal, so that errors of positions show, and router scores distinct, so that
# rounding never changes the chosen experts.
_SCALES = {"mlp.gate.weight": 1.0, "q_proj": 0.25, "k_proj": 0.25, "conv1d": 0.5}
# The matrix that latent attention splits is dense in every model.
_DENSE = ("shared_expert_gate", "kv_b_proj")
_ROPE, _PARTIAL = RopeConfig(1e4, 16), RopeConfig(1e3, 8)
LLAMA = ModelConfig(
    vocab_size=112, hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=2, head_dim=16, context_length=128,
    norm_eps=1e-5, qk_norm="head", qkv_bias=True,
    layers=(
        LayerConfig(_ROPE),
        LayerConfig(_ROPE, window=6),
        LayerConfig(None, experts=_EXPERTS),
    ),
)  # fmt: skip
"""Grouped heads, rotations, a sliding window, query and key norms, attention biases, experts."""
GPT = ModelConfig(
    vocab_size=112, hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=4, head_dim=16, context_length=128,
    norm_eps=1e-5, activation="gelu_tanh", gated=False, norm=NormStyle("layer", bias=True), placement="parallel",
    qkv_bias=True, o_bias=True, mlp_bias=True, learned_positions=True, tie_embeddings=True,
    attention_softcap=4.0, logit_softcap=5.0,
    layers=(LayerConfig(_PARTIAL, sinks=True), LayerConfig(_PARTIAL, chunk=8, sinks=True)),
)  # fmt: skip
"""Layer norms, biases everywhere, chunks, partial rotations, sinks, parallel blocks, a tied head."""

RECURRENT = ModelConfig(
    vocab_size=112, hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=4, head_dim=16, context_length=128,
    norm_eps=1e-5, latent=LatentConfig(24, 32, 16, 16, 16),
    layers=(
        LayerConfig(None, mixer=DeltaConfig(2, 2, 16, 16, 4, decay="channel", gate="sigmoid", gate_rank=16)),
        LayerConfig(_ROPE, beside=Mamba2Config(4, 16, 2, 16, 4)),
        LayerConfig(None, mixer=MambaConfig(64, 16, 8, 4), parts="mixer"),
        LayerConfig(None, mixer=RglruConfig(64, 2, 4)),
        LayerConfig(None, window=3, mixer=ShortConvConfig(3)),
    ),
)  # fmt: skip
"""Recurrent layers of each kind, latent attention, two networks beside each other, a layer without feed-forward."""


@dataclass(frozen=True)
class Case:
    """A model for the comparison."""

    name: str
    """Shown to users."""
    config: ModelConfig
    dtype: torch.dtype
    packed: tuple[PackedFormat | None, ...] = (None,)
    """Formats of the large matrices of the layers, in turn; the head has the last format. None: dense."""

    @torch.no_grad()
    def models(self, device: torch.device) -> tuple[Transformer, Transformer]:
        """Make the model, and one with the same weights that computes in float32; from a fixed seed."""
        random = torch.Generator().manual_seed(_SEED)
        model = Transformer(self.config).requires_grad_(False)
        for name, parameter in model.named_parameters():
            scale = next((scale for part, scale in _SCALES.items() if part in name), 0.15)
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            values = torch.randn(parameter.shape, generator=random) * scale + around
            # Memories fade: rates are negative.
            parameter.copy_(-values.abs() if name.endswith(".A") else values)
        _pack(model, self.packed, random)
        exact = copy.deepcopy(model.to(self.dtype)).float()
        for part, dtype in ((model, self.dtype), (exact, torch.float32)):
            for matrix in part.modules():
                if isinstance(matrix, PackedMatrix):
                    matrix.dtype = dtype
            part.to(device)
        return model, exact


def _pack(model: Transformer, formats: Sequence[PackedFormat | None], random: torch.Generator) -> None:
    """Replace a model's large matrices by packed ones with random codes."""
    for layer, packed_format in zip(model.layers, cycle(formats), strict=False):
        for module in list(layer.modules()) if packed_format is not None else ():
            assert packed_format is not None
            if isinstance(module, ExpertWeights):
                for name in ("gate_up_proj", "down_proj"):
                    packed = _matrix(getattr(module, name), packed_format, random)
                    delattr(module, name)
                    setattr(module, name, packed)
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and name not in _DENSE:
                    setattr(module, name, _linear(child, _matrix(child.weight, packed_format, random)))
    if (packed_format := formats[-1]) is not None:
        head = _matrix(model.lm_head.weight, packed_format, random)
        own = head if model.config.tie_embeddings else _matrix(model.embed_tokens.weight, packed_format, random)
        model.embed_tokens, model.lm_head = QuantizedEmbedding(own), _linear(model.lm_head, head)


def _linear(layer: nn.Linear | QuantizedLinear, packed: PackedMatrix) -> QuantizedLinear:
    made = QuantizedLinear(packed, bias=layer.bias is not None)
    made.bias = layer.bias
    return made


def _matrix(weights: Tensor, packed_format: PackedFormat, random: torch.Generator) -> PackedMatrix:
    """A packed matrix, or a stack of them, with random codes and the shape of `weights`."""
    rows, columns = weights.shape[-2:]
    count = weights.shape[0] if weights.dim() == 3 else 1
    made = PackedMatrix(packed_format, rows, columns, dtype=torch.float32, count=count)
    for index in range(count):
        made.store(index, 0, _codes(packed_format, rows, columns, random))
    return made


def _codes(packed_format: PackedFormat, rows: int, columns: int, random: torch.Generator) -> Groups:
    """Random codes over their whole range, with different scales and minima for each group; values of about 0.15."""
    groups = packed_format.groups(columns)
    codes = torch.randint(0, 1 << packed_format.bits, (rows, columns), generator=random, dtype=torch.uint8)
    scale = (torch.rand(rows, groups, generator=random) + 0.5) * 0.5 / (1 << packed_format.bits)
    minimum = -8 * scale * (torch.rand(rows, groups, generator=random) * 0.4 + 0.8)
    scale = scale.half() if packed_format.group else scale
    return Groups(codes, scale, minimum.half() if packed_format.bits == 4 else None, packed_format.group)
