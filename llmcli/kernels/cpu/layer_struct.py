"""Describe the layers of a `Transformer` to the C kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu.recurrence_struct import add_recurrence
from llmcli.kernels.cpu.support import SCORES
from llmcli.kernels.cpu.weight_structs import WeightStructs
from llmcli.model.attention.attention import Attention
from llmcli.model.attention.latent_attention import LatentAttention
from llmcli.model.block import AltUpBlock, Block, OutputNormBlock, ScaledBlock, SumNormBlock
from llmcli.model.config import ExpertsConfig, LayerConfig, ModelConfig
from llmcli.model.experts_beside import ExpertsBesideDense
from llmcli.model.feed_forward import XIELU
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.rank_one_update import EditedLinear
from llmcli.model.recurrent.two_mixers import TwoMixers
from llmcli.model.residual.altup import AltUp
from llmcli.model.residual.per_layer_embeddings import PerLayerInput

# Query heads of latent attention that are computed together.
_MOST_TOGETHER = 16


def describe_layer(
    weights: WeightStructs, config: ModelConfig, layer: LayerConfig, block: nn.Module, rope: int
) -> c.Layer:
    """The structure of a layer; `rope` is the number of its rotation, or -1.

    Raises:
        NoKernelError: the kernel does not read some of its weights.
    """
    assert isinstance(block, Block)
    described = c.Layer(
        inner=config.width_of(layer),
        rope=rope,
        window=layer.window or 0,
        chunk=layer.chunk or 0,
        output_scale=block.layer_scalar.item() if isinstance(block, ScaledBlock) else 1,
    )
    if layer.query_scaling is not None:
        described.scaling_beta = layer.query_scaling.beta
        described.scaling_interval = layer.query_scaling.interval
        described.scaling_offset = layer.query_scaling.offset
    if layer.parts != "feed_forward":
        _add_mixer(described, weights, block)
    if layer.parts != "mixer":
        _add_second_part(described, weights, block)
    described.normed_sums = isinstance(block, SumNormBlock)
    if isinstance(block, OutputNormBlock | SumNormBlock):
        described.attention_output = weights.norm(block.attention_output_norm)
        described.feed_forward_output = weights.norm(block.mlp_output_norm)
    added = getattr(block, "per_layer_input", None)
    if isinstance(added, PerLayerInput):
        described.per_layer_gate = weights.matrix(added.gate)
        described.per_layer_down = weights.matrix(added.projection)
        described.per_layer_norm = weights.norm(added.norm)
    if isinstance(block, AltUpBlock):
        described.altup = _altup(weights, block.altup)
        described.laurel_left = weights.matrix(block.laurel.linear_left)
        described.laurel_right = weights.matrix(block.laurel.linear_right)
        described.laurel_norm = weights.norm(block.laurel.post_laurel_norm)
    return described


def _add_mixer(described: c.Layer, weights: WeightStructs, block: Block) -> None:
    """Add attention, or what the layer has instead of it or beside it."""
    described.input_norm = weights.norm(block.input_layernorm)
    for mixer in block.mixer.children() if isinstance(block.mixer, TwoMixers) else (block.mixer,):
        if isinstance(mixer, LatentAttention):
            _add_latent_attention(described, weights, mixer)
        elif isinstance(mixer, Attention):
            _add_attention(described, weights, mixer)
        else:
            add_recurrence(described, weights, mixer)


def _add_second_part(described: c.Layer, weights: WeightStructs, block: Block) -> None:
    """Add a dense network, or a mixture of experts."""
    described.second_norm = weights.norm(block.post_attention_layernorm)
    network: Any = block.mlp
    if isinstance(network, MixtureOfExperts):
        described.experts = _experts(weights, network.config, network)
        if isinstance(network, ExpertsBesideDense):
            described.second_norm = _add_own_norms(described.experts, weights, network)
        network = network.shared_expert
    if network is not None:
        _add_feed_forward(described, weights, network)


def _add_attention(described: c.Layer, weights: WeightStructs, attention: Attention) -> None:
    heads, attend = attention.heads, attention.attend
    described.heads, described.kv_heads = heads.count, heads.kv_count
    described.key_dim, described.value_dim = heads.key_dim, heads.value_dim
    described.scale = attend.scale
    described.q, described.q_norm = weights.large(attention.q_proj), weights.norm(attention.q_norm)
    if attention.kv_from is None:
        described.k, described.k_norm = weights.large(attention.k_proj), weights.norm(attention.k_norm)
        described.v_norm = _value_norm(weights, attention)
        if not attention.key_is_value:
            described.v = weights.large(attention.v_proj)
    described.o = weights.large(attention.o_proj)
    if attention.gate_proj is not None:
        describe = weights.matrix if attention.gate_per_head else weights.large
        described.attention_gate = describe(attention.gate_proj)
    if attention.sub_norm is not None:
        described.attention_inner = weights.norm(attention.sub_norm)
    if attention.sinks is not None:
        described.sinks = weights.floats(attention.sinks)
    if attend.slopes is not None:
        described.slopes = weights.floats(attend.slopes.bfloat16() if attend.biases_as_scores else attend.slopes)


def _value_norm(weights: WeightStructs, attention: Attention) -> c.Norm:
    """The norm of values, a factor on them, or both."""
    factor = attention.value_scale
    if attention.value_norm_eps is None:
        return c.Norm(kind=c.NO_NORM if factor == 1 else c.SCALED, factor=factor)
    factors = weights.floats(torch.full((attention.heads.value_dim,), factor))
    return c.Norm(kind=c.RMS_NORM, eps=attention.value_norm_eps, weight=factors)


def _add_latent_attention(described: c.Layer, weights: WeightStructs, attention: LatentAttention) -> None:
    sizes, heads = attention.latent, attention.num_heads
    if not isinstance(attention.kv_b_proj, nn.Linear):
        raise NoKernelError("the matrix that makes keys and values from latents is packed")
    # Heads are computed in groups, each of which reads the rows of the cache once.
    group = max(size for size in range(1, _MOST_TOGETHER + 1) if heads % size == 0)
    described.heads, described.kv_heads = heads, heads // group
    described.key_dim, described.value_dim = sizes.rank + sizes.rope_dim, sizes.rank
    described.scale = attention.attend.scale
    described.latent = c.Latent(
        to_keys=weights.matrix(attention.key_weight.transpose(1, 2).contiguous()),
        to_values=weights.matrix(attention.value_weight),
        norm=weights.norm(attention.kv_a_layernorm),
        rank=sizes.rank,
        nope=sizes.nope_dim,
        rope=sizes.rope_dim,
        value_dim=sizes.value_dim,
    )
    if sizes.query_rank is None:
        described.q = weights.large(attention.q_proj)
    else:
        described.q = weights.large(attention.q_a_proj)
        described.latent.query = weights.large(attention.q_b_proj)
        described.latent.query_norm = weights.norm(attention.q_a_layernorm)
    described.k, described.o = weights.large(attention.kv_a_proj_with_mqa), weights.large(attention.o_proj)
    if attention.gate_proj is not None:
        described.attention_gate = weights.matrix(attention.gate_proj)


def _altup(weights: WeightStructs, altup: AltUp) -> c.Streams:
    described = c.Streams(
        router=weights.small(altup.modality_router),
        prediction=weights.small(altup.prediction_coefs),
        correction=weights.small(altup.correction_coefs),
        router_norm=weights.norm(altup.router_norm),
    )
    if altup.correct_output_scale is not None:
        described.scale = weights.floats(altup.correct_output_scale)
    return described


def _add_feed_forward(described: c.Layer, weights: WeightStructs, network: Any) -> None:
    """Add a dense network, or the shared expert of a mixture."""
    down = network.down_proj
    if isinstance(down, EditedLinear):
        described.edits = len(down.reads)
        described.edit_reads, described.edit_writes = weights.floats(down.reads), weights.floats(down.writes)
        down = down.base
    described.up, described.down = weights.large(network.up_proj), weights.large(down)
    if hasattr(network, "gate_proj"):
        described.gate = weights.large(network.gate_proj)
    if getattr(network, "sub_norm", None) is not None:
        described.feed_forward_inner = weights.norm(network.sub_norm)
    if getattr(network, "sparsity", None) is not None:
        described.sparse, described.sparsity = 1, network.sparsity
    if isinstance(network.activation, XIELU):
        described.xielu_above = network.activation.above.item()
        described.xielu_below = network.activation.below.item()


def _experts(weights: WeightStructs, config: ExpertsConfig, mixture: MixtureOfExperts) -> c.Experts:
    experts, router = mixture.experts, mixture.gate
    share = config.chosen / config.count
    described = c.Experts(
        router=weights.matrix(router.weight, bias=None if config.float32_router else router.bias),
        gate_up=weights.large(experts.inner, bias=experts.gate_up_proj_bias, share=share),
        down=weights.large(experts.down_proj, bias=experts.down_proj_bias, share=share),
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
    if router.per_expert_scale is not None:
        described.expert_scale = weights.floats(router.per_expert_scale)
    if router.e_score_correction_bias is not None:
        described.selection_bias = weights.floats(router.e_score_correction_bias)
    if config.glu is not None:
        described.clamped, described.alpha, described.limit = 1, config.glu.alpha, config.glu.limit
    if config.latent_size is not None:
        described.latent_in = weights.large(mixture.latent_in)
        described.latent_out = weights.large(mixture.latent_out)
    if mixture.shared_expert_gate is not None:
        described.shared_gate = weights.matrix(mixture.shared_expert_gate)
    return described


def _add_own_norms(described: c.Experts, weights: WeightStructs, mixture: ExpertsBesideDense) -> c.Norm:
    """Add the norms of experts beside a dense network; returns the norm of the router's input."""
    described.own_norms = 1
    described.input_norm = weights.norm(mixture.experts_norm)
    described.output_norm = weights.norm(mixture.experts_output_norm)
    described.shared_norm = weights.norm(mixture.shared_norm)
    described.shared_output_norm = weights.norm(mixture.shared_output_norm)
    router = mixture.gate
    if router.scale is None:
        return c.Norm(kind=c.NO_NORM)
    factors = router.scale.float() * len(router.scale) ** -0.5
    return c.Norm(kind=c.RMS_NORM, eps=router.eps, weight=weights.floats(factors))
