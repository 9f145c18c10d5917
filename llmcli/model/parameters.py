"""Names, shapes and storage rules of a model's parameters, from its configuration alone.

The modules of `transformer.py` create the parameters; this module computes the same list without torch, so that the
headers of a checkpoint can be checked before torch is imported. A test compares the two lists for all families.

Dimension letters: V vocabulary, C hidden size, I intermediate size, E experts, D size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llmcli.model.config import (
    AltupConfig,
    ExpertsConfig,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
    PerLayerConfig,
)
from llmcli.model.mixer_config import DeltaConfig, MixerConfig, ShortConvConfig, mixer_module, mixer_name

Shape = tuple[int, ...]
_Named = Iterator[tuple[str, "ParameterInfo"]]


@dataclass(frozen=True)
class ParameterInfo:
    """Shape and storage type of a parameter."""

    shape: Shape
    float32: bool = False
    """Kept in float32 in a model of any type: the choice of experts depends on small differences."""

    @property
    def values(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


def parameters_of(config: ModelConfig) -> dict[str, ParameterInfo]:
    """All parameters of `Transformer(config)` by name, in the order of its `named_parameters`; a tied head has none."""
    return dict(_transformer(config))


def _transformer(config: ModelConfig) -> _Named:
    hidden = config.hidden_size
    yield "embed_tokens.weight", ParameterInfo((config.vocab_size, hidden))
    if config.learned_positions:
        yield "embed_positions.weight", ParameterInfo((config.context_length, hidden))
    if config.embed_norm is not None:
        yield from _within("embed_norm", _norm((hidden,), config.embed_norm))
    if config.per_layer is not None:
        yield from _within("per_layer_embeddings", _per_layer_embeddings(config, config.per_layer))
    if config.altup is not None:
        shape = config.altup.streams - 1, hidden, hidden
        yield "altup_streams.projections", ParameterInfo(shape)
        yield "altup_streams.unembed_projections", ParameterInfo(shape)
    for index, layer in enumerate(config.layers):
        yield from _within(f"layers.{index}", _block(config, layer))
    yield from _within("norm", _norm((hidden,), config.final_norm or config.norm))
    head = dict(_linear(hidden, config.vocab_size, bias=config.head_bias))
    if config.tie_embeddings:
        del head["weight"]
    yield from _within("lm_head", iter(head.items()))


def _per_layer_embeddings(config: ModelConfig, per_layer: PerLayerConfig) -> _Named:
    width = config.num_layers * per_layer.size
    yield "embed_tokens.weight", ParameterInfo((per_layer.vocab_size, width))
    yield from _within("projection", _linear(config.hidden_size, width))
    yield from _within("norm", _norm((per_layer.size,), config.norm))


def _per_layer_input(config: ModelConfig, per_layer: PerLayerConfig) -> _Named:
    yield from _within("gate", _linear(config.hidden_size, per_layer.size))
    yield from _within("projection", _linear(per_layer.size, config.hidden_size))
    yield from _within("norm", _norm((config.hidden_size,), config.norm))


def _altup(config: ModelConfig, altup: AltupConfig) -> _Named:
    if altup.scaled:
        yield "correct_output_scale", ParameterInfo((config.hidden_size,))
    yield from _within("correction_coefs", _linear(altup.streams, altup.streams))
    yield from _within("prediction_coefs", _linear(altup.streams, altup.streams**2))
    yield from _within("modality_router", _linear(config.hidden_size, altup.streams))
    yield from _within("router_norm", _norm((config.hidden_size,), config.norm))


def _laurel(config: ModelConfig, rank: int) -> _Named:
    yield from _within("linear_left", _linear(config.hidden_size, rank))
    yield from _within("linear_right", _linear(rank, config.hidden_size))
    yield from _within("post_laurel_norm", _norm((config.hidden_size,), config.norm))


def _block(config: ModelConfig, layer: LayerConfig) -> _Named:
    if config.layer_scale:
        yield "layer_scalar", ParameterInfo((1,))
    norm = dict(_norm((config.hidden_size,), config.norm))
    if layer.parts != "feed_forward":
        if config.placement != "post":
            yield from _within("input_layernorm", iter(norm.items()))
        both = (layer.mixer,) if layer.beside is None else (layer.mixer, layer.beside)
        for mixer in both:
            name = mixer_module(mixer)
            yield from _within(name if len(both) == 1 else f"mixers.{name}", _mixer(config, layer, mixer))
    if layer.parts != "mixer":
        normed_inside = layer.experts is not None and layer.experts.own_norms
        if config.placement not in ("post", "parallel_shared") and not normed_inside:
            yield from _within("post_attention_layernorm", iter(norm.items()))
        if layer.experts is not None:
            yield from _within("mlp", _mixture_of_experts(config, layer.experts))
        else:
            yield from _within("mlp", _feed_forward(config, config.width_of(layer), gated=config.gated))
    if config.placement in ("post", "sandwich"):
        yield from _within("attention_output_norm", iter(norm.items()))
    if config.placement in ("post", "sandwich") or (layer.experts is not None and layer.experts.output_norm):
        yield from _within("mlp_output_norm", iter(norm.items()))
    if config.altup is not None:
        yield from _within("altup", _altup(config, config.altup))
        yield from _within("laurel", _laurel(config, config.altup.laurel_rank))
    if config.per_layer is not None:
        yield from _within("per_layer_input", _per_layer_input(config, config.per_layer))


def _mixer(config: ModelConfig, layer: LayerConfig, mixer: MixerConfig | None) -> _Named:
    if isinstance(mixer, ShortConvConfig):
        return _short_conv(config, mixer)
    if isinstance(mixer, DeltaConfig):
        return _delta_net(config, mixer)
    if mixer is not None:
        raise NotImplementedError(f"parameters of a {mixer_name(mixer)}")
    return _attention(config, layer) if config.latent is None else _latent_attention(config, config.latent)


def _delta_net(config: ModelConfig, delta: DeltaConfig) -> _Named:
    hidden, heads, rank = config.hidden_size, delta.value_heads, delta.gate_rank
    keys, values = delta.key_heads * delta.key_dim, heads * delta.value_dim
    decays = heads if delta.decay == "head" else heads * delta.key_dim
    yield "A", ParameterInfo((heads,), float32=True)
    yield "dt_bias", ParameterInfo((decays,), float32=True)
    yield from _within("in_proj_qkv", _linear(hidden, 2 * keys + values))
    yield from _within("in_proj_z", _projection(hidden, values, rank))
    yield from _within("in_proj_b", _linear(hidden, heads))
    yield from _within("in_proj_a", _projection(hidden, decays, rank))
    yield "conv1d.weight", ParameterInfo((2 * keys + values, delta.conv_width))
    yield "norm.weight", ParameterInfo((delta.value_dim,))
    yield from _within("out_proj", _linear(values, hidden))


def _projection(inputs: int, outputs: int, rank: int | None) -> _Named:
    """One projection, or two in a row with `rank` values between them."""
    if rank is None:
        yield from _linear(inputs, outputs)
    else:
        yield from _within("linear_left", _linear(inputs, rank))
        yield from _within("linear_right", _linear(rank, outputs))


def _short_conv(config: ModelConfig, mixer: ShortConvConfig) -> _Named:
    hidden = config.hidden_size
    yield from _within("in_proj", _linear(hidden, 3 * hidden, bias=mixer.bias))
    yield "conv.weight", ParameterInfo((hidden, mixer.width))
    if mixer.bias:
        yield "conv.bias", ParameterInfo((hidden,))
    yield from _within("out_proj", _linear(hidden, hidden, bias=mixer.bias))


def _attention(config: ModelConfig, layer: LayerConfig) -> _Named:
    shape = config.heads_of(layer)
    hidden, size = config.hidden_size, shape.key_dim
    if config.sinks:
        yield "sinks", ParameterInfo((shape.count,))
    yield from _within("q_proj", _linear(hidden, shape.count * size, bias=config.qkv_bias))
    if layer.kv_from is None:
        yield from _within("k_proj", _linear(hidden, shape.kv_count * size, bias=config.qkv_bias))
    if layer.kv_from is None and not layer.key_is_value:
        yield from _within("v_proj", _linear(hidden, shape.kv_count * shape.value_dim, bias=config.qkv_bias))
    yield from _within("o_proj", _linear(shape.count * shape.value_dim, hidden, bias=config.o_bias))
    normed = {"q_norm": shape.count} | ({"k_norm": shape.kv_count} if layer.kv_from is None else {})
    for name, heads in normed.items():
        if config.qk_norm in ("head", "rotated_head"):
            yield from _within(name, _norm((size,), config.norm))
        elif config.qk_norm == "whole":
            yield from _within(name, _norm((heads * size,), config.norm))
        elif config.qk_norm == "each_head":
            yield from _within(name, _norm((heads, size), config.norm, may_have_bias=False))
    if config.attention_gate is not None:
        gates = shape.count if config.attention_gate.per_head else shape.count * shape.value_dim
        yield from _within("gate_proj", _linear(hidden, gates))
    if config.sub_norms:
        yield "sub_norm.weight", ParameterInfo((shape.count * shape.value_dim,))


def _latent_attention(config: ModelConfig, latent: LatentConfig) -> _Named:
    hidden, heads = config.hidden_size, config.num_heads
    rms = NormStyle()
    if latent.query_rank is None:
        yield from _within("q_proj", _linear(hidden, heads * latent.query_dim))
    else:
        yield from _within("q_a_proj", _linear(hidden, latent.query_rank, bias=config.qkv_bias))
        yield from _within("q_a_layernorm", _norm((latent.query_rank,), rms))
        yield from _within("q_b_proj", _linear(latent.query_rank, heads * latent.query_dim))
    compressed = latent.rank + latent.rope_dim
    yield from _within("kv_a_proj_with_mqa", _linear(hidden, compressed, bias=config.qkv_bias))
    yield from _within("kv_a_layernorm", _norm((latent.rank,), rms))
    yield from _within("kv_b_proj", _linear(latent.rank, heads * (latent.nope_dim + latent.value_dim)))
    yield from _within("o_proj", _linear(heads * latent.value_dim, hidden, bias=config.o_bias))


def _feed_forward(config: ModelConfig, size: int, *, gated: bool) -> _Named:
    hidden, bias = config.hidden_size, config.mlp_bias
    if gated:
        yield from _within("gate_proj", _linear(hidden, size, bias=bias))
    yield from _within("up_proj", _linear(hidden, size, bias=bias))
    yield from _within("down_proj", _linear(size, hidden, bias=bias))
    if config.activation == "xielu":
        yield "activation.alpha_p", ParameterInfo((1,))
        yield "activation.alpha_n", ParameterInfo((1,))
    if config.sub_norms:
        yield "sub_norm.weight", ParameterInfo((size,))


def _mixture_of_experts(config: ModelConfig, experts: ExpertsConfig) -> _Named:
    count, size, hidden = experts.count, experts.intermediate_size, config.hidden_size
    yield "gate.weight", ParameterInfo((count, hidden), float32=experts.float32_router)
    if experts.router_bias:
        yield "gate.bias", ParameterInfo((count,))
    if experts.router_scale:
        yield "gate.scale", ParameterInfo((hidden,))
    if experts.expert_scale:
        yield "gate.per_expert_scale", ParameterInfo((count,))
    if experts.selection_bias:
        yield "gate.e_score_correction_bias", ParameterInfo((count,), float32=True)
    yield "experts.gate_up_proj", ParameterInfo((count, 2 * size, hidden))
    yield "experts.down_proj", ParameterInfo((count, hidden, size))
    if experts.bias:
        yield "experts.gate_up_proj_bias", ParameterInfo((count, 2 * size))
        yield "experts.down_proj_bias", ParameterInfo((count, hidden))
    if experts.shared_size:
        yield from _within("shared_expert", _feed_forward(config, experts.shared_size, gated=True))
    if experts.shared_gate:
        yield from _within("shared_expert_gate", _linear(hidden, 1))
    if experts.own_norms:
        for name in ("shared_norm", "shared_output_norm", "experts_norm", "experts_output_norm"):
            yield from _within(name, _norm((hidden,), config.norm))


def _linear(inputs: int, outputs: int, *, bias: bool = False) -> _Named:
    yield "weight", ParameterInfo((outputs, inputs))
    if bias:
        yield "bias", ParameterInfo((outputs,))


def _norm(shape: Shape, style: NormStyle, *, may_have_bias: bool = True) -> _Named:
    if style.weight:
        yield "weight", ParameterInfo(shape)
    if style.kind == "layer" and style.bias and may_have_bias:
        yield "bias", ParameterInfo(shape)


def _within(module: str, parameters: _Named) -> _Named:
    for name, parameter in parameters:
        yield f"{module}.{name}", parameter
