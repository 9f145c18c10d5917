"""Describe a `Transformer` to the C kernel: pointers to its weights, and its options as numbers."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu.support import ACTIVATIONS, QK_NORMS, SCORES, unsupported
from llmcli.kernels.matrices import matrix_of
from llmcli.model import ExpertsConfig, ModelConfig, Transformer
from llmcli.model.attention.attention import Attention
from llmcli.model.block import Block, OutputNormBlock, ParallelBlock, SharedNormBlock
from llmcli.model.config import LayerConfig
from llmcli.model.feed_forward import XIELU
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.norm import CenteredRMSNorm, LayerNorm, RMSNorm, Scale, ScaledRMSNorm, WeightlessRMSNorm
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.model.rank_one_update import EditedLinear

_NAMES = {0: "float32", 1: "bfloat16", 2: "int4", 3: "int8"}
_DENSE = {torch.float32: c.FORMATS["float32"], torch.bfloat16: c.FORMATS["bfloat16"]}


class Description:
    """The C structures of a model, and references to all the memory they point to."""

    def __init__(self, model: Transformer, *, capacity: int) -> None:
        """`capacity` is the greatest number of tokens in a call.

        Raises:
            NoKernelError: the kernel does not support the model's configuration, device or data type.
        """
        config = model.config
        if reason := unsupported(config):
            raise NoKernelError(reason)
        if model.device.type != "cpu":
            raise NoKernelError(f"the model is on {model.device.type}")
        self.kept: list[object] = []
        self.dense_layers = False
        """Whether any large matrix of the layers is dense."""
        self.multiplications = 0
        """Multiplications per token in the matrices of the layers."""
        self._formats: dict[str, None] = {}
        self._ropes = list(dict.fromkeys(layer.rope for layer in config.layers if layer.rope is not None))
        layers = (c.Layer * config.num_layers)(
            *(self._layer(config, layer, block) for layer, block in zip(config.layers, model.layers, strict=True))
        )
        self.kept.append(layers)
        self.dtype = model.dtype
        factor = config.embed_scale
        if config.embed_scale_rounded:
            factor = torch.tensor(factor, dtype=model.dtype).item()
        first = model.layers[0]
        assert isinstance(first, Block)
        self.model = c.Model(
            layers=config.num_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            capacity=capacity,
            activation=ACTIVATIONS.index(config.activation),
            gated=config.gated,
            parallel=isinstance(first, ParallelBlock | SharedNormBlock),
            shared_norm=isinstance(first, SharedNormBlock),
            qk_norm=QK_NORMS.index(config.qk_norm),
            cache_format=_format(model.dtype),
            clip=config.qkv_clip or 0,
            softcap=config.attention_softcap or 0,
            embed_scale=factor,
            logit_scale=config.logit_scale,
            logit_softcap=config.logit_softcap or 0,
            embedding=self._matrix(model.embed_tokens),
            head=self._head(model.lm_head),
            embed_norm=self._norm(model.embed_norm or nn.Identity()),
            norm=self._norm(model.norm),
            layer=ctypes.cast(layers, ctypes.POINTER(c.Layer)),
        )
        self.model.rounded_biases = config.alibi is not None and config.alibi.as_score
        if config.attention_gate is not None:
            self.model.gate_per_head = config.attention_gate.per_head
            self.model.gate_softplus = config.attention_gate.activation == "softplus"
        if model.embed_positions is not None:
            self.model.positions = self._matrix(model.embed_positions)

    def _layer(self, config: ModelConfig, layer: LayerConfig, block: nn.Module) -> c.Layer:
        assert isinstance(block, Block)
        attention = block.self_attn
        assert isinstance(attention, Attention)
        described = c.Layer(
            input_norm=self._norm(block.input_layernorm),
            second_norm=self._norm(block.post_attention_layernorm),
            q_norm=self._norm(attention.q_norm),
            q=self._large(attention.q_proj),
            o=self._large(attention.o_proj),
            heads=attention.heads.count,
            kv_heads=attention.heads.kv_count,
            key_dim=attention.heads.key_dim,
            value_dim=attention.heads.value_dim,
            inner=config.width_of(layer),
            scale=attention.attend.scale,
            rope=-1 if layer.rope is None else self._ropes.index(layer.rope),
            window=layer.window or 0,
            chunk=layer.chunk or 0,
        )
        if attention.kv_from is None:
            described.k, described.k_norm = self._large(attention.k_proj), self._norm(attention.k_norm)
            if attention.value_norm_eps is not None:
                described.v_norm = c.Norm(kind=c.RMS_NORM, eps=attention.value_norm_eps)
            if not attention.key_is_value:
                described.v = self._large(attention.v_proj)
        if attention.attend.slopes is not None:
            slopes = attention.attend.slopes
            described.slopes = self._floats(slopes.bfloat16() if attention.attend.biases_as_scores else slopes)
        if isinstance(block, OutputNormBlock):
            described.attention_output = self._norm(block.attention_output_norm)
            described.feed_forward_output = self._norm(block.mlp_output_norm)
        if attention.gate_proj is not None:
            small = attention.gate_per_head
            described.attention_gate = (self._matrix if small else self._large)(attention.gate_proj)
        if attention.sub_norm is not None:
            described.attention_inner = self._norm(attention.sub_norm)
        if attention.sinks is not None:
            described.sinks = self._floats(attention.sinks)
        if layer.query_scaling is not None:
            described.scaling_beta = layer.query_scaling.beta
            described.scaling_interval = layer.query_scaling.interval
            described.scaling_offset = layer.query_scaling.offset
        network: Any = block.mlp
        if isinstance(network, MixtureOfExperts):
            described.experts = self._experts(network.config, network)
            network = network.shared_expert
        if network is not None:
            down = network.down_proj
            if isinstance(down, EditedLinear):
                described.edits = len(down.reads)
                described.edit_reads, described.edit_writes = self._floats(down.reads), self._floats(down.writes)
                down = down.base
            described.up, described.down = self._large(network.up_proj), self._large(down)
            if hasattr(network, "gate_proj"):
                described.gate = self._large(network.gate_proj)
            if getattr(network, "sub_norm", None) is not None:
                described.feed_forward_inner = self._norm(network.sub_norm)
            if isinstance(network.activation, XIELU):
                described.xielu_above = network.activation.above.item()
                described.xielu_below = network.activation.below.item()
        return described

    def _experts(self, config: ExpertsConfig, mixture: MixtureOfExperts) -> c.Experts:
        experts, router = mixture.experts, mixture.gate
        share = config.chosen / config.count
        described = c.Experts(
            router=self._matrix(router.weight, bias=None if config.float32_router else router.bias),
            gate_up=self._large(experts.gate_up_proj, bias=experts.gate_up_proj_bias, share=share),
            down=self._large(experts.down_proj, bias=experts.down_proj_bias, share=share),
            count=config.count,
            chosen=config.chosen,
            size=config.intermediate_size,
            score=SCORES.index(config.score),
            normalized=config.normalized,
            scales_input=config.scales_input,
            groups=config.groups,
            groups_chosen=config.groups_chosen,
            best_two=config.group_score == "best_two",
            scale=config.scale,
            softcap=config.router_softcap or 0,
            mixing_range=config.mixing_range,
            shared_scale=config.shared_scale,
            shared=config.shared_size,
        )
        if router.e_score_correction_bias is not None:
            described.selection_bias = self._floats(router.e_score_correction_bias)
        if config.glu is not None:
            described.clamped, described.alpha, described.limit = 1, config.glu.alpha, config.glu.limit
        if mixture.shared_expert_gate is not None:
            described.shared_gate = self._matrix(mixture.shared_expert_gate)
        return described

    @property
    def formats(self) -> str:
        """The formats of the large matrices, shown to users."""
        return "/".join(self._formats)

    def _head(self, head: nn.Module) -> c.Matrix:
        matrix = self._matrix(head)
        self._formats[_NAMES[matrix.format]] = None
        return matrix

    def _large(self, weights: nn.Module | Tensor, *, bias: Tensor | None = None, share: float = 1.0) -> c.Matrix:
        matrix = self._matrix(weights, bias=bias)
        self._formats[_NAMES[matrix.format]] = None
        self.dense_layers |= matrix.format in _DENSE.values()
        self.multiplications += round(matrix.count * matrix.rows * matrix.columns * share)
        return matrix

    def _matrix(self, weights: nn.Module | Tensor, *, bias: Tensor | None = None) -> c.Matrix:
        """Describe a linear layer, an embedding or parameters: a matrix, or a stack of them."""
        values, bias = matrix_of(weights, bias)
        if isinstance(values, PackedMatrix):
            if values.format.wide:
                raise NoKernelError(f"a matrix is packed for GPUs ({values.format})")
            data, number = values.blocks, c.FORMATS[values.bits]
            count, rows, columns = values.shape
        else:
            data, number = values, _format(values.dtype)
            count, rows, columns = (1, *values.shape) if values.dim() == 2 else values.shape
        if not data.is_contiguous() or data.device.type != "cpu":
            raise NoKernelError("a matrix is not contiguous in main memory")
        self.kept.append(data)
        return c.Matrix(
            data=data.data_ptr(),
            bias=None if bias is None else self._floats(bias),
            stride=data.nbytes // count,
            format=number,
            rows=rows,
            columns=columns,
            count=count,
        )

    def _norm(self, norm: nn.Module) -> c.Norm:
        match norm:
            case nn.Identity():
                return c.Norm(kind=c.NO_NORM)
            case Scale():
                return c.Norm(kind=c.SCALED, factor=norm.factor)
            case CenteredRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self._floats(norm.weight.float() + 1))
            case ScaledRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self._floats(norm.weight.float() * norm.factor))
            case WeightlessRMSNorm():
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps)
            case RMSNorm():
                each = norm.weight.dim() > 1
                return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=self._floats(norm.weight), each_head=each)
            case LayerNorm():
                weight = None if norm.weight is None else self._floats(norm.weight.float() + norm.plus_one)
                bias = None if norm.bias is None else self._floats(norm.bias)
                each = norm.weight is not None and norm.weight.dim() > 1
                return c.Norm(kind=c.LAYER_NORM, eps=norm.eps, weight=weight, bias=bias, each_head=each)
            case _:
                raise NoKernelError(f"a norm is of the kind {type(norm).__name__}")

    def _floats(self, values: Tensor) -> int:
        """The address of a float32 copy of the values, for small vectors."""
        copy = values.detach().float().contiguous()
        self.kept.append(copy)
        return copy.data_ptr()


def _format(dtype: torch.dtype) -> int:
    if dtype not in _DENSE:
        raise NoKernelError(f"the weights are in {str(dtype).removeprefix('torch.')}")
    return _DENSE[dtype]
