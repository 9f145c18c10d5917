"""Names, shapes and storage rules of a model's parameters, from its configuration alone.

The modules of `transformer.py` create the parameters; this module computes the same list without torch, so that the
headers of a checkpoint can be checked before torch is imported. A test compares the two lists for all families.

Dimension letters: V vocabulary, C hidden size, I intermediate size, E experts, D size of a head.
"""

from __future__ import annotations

from llmcli.model.config import (
    BlockIndexConfig,
    ExpertsConfig,
    KeyIndexConfig,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
)
from llmcli.model.mixer_config import MixerConfig, mixer_module
from llmcli.model.parameter_info import Named, ParameterInfo, linear, norm_weights, within
from llmcli.model.recurrent.parameters import mixer_parameters
from llmcli.model.residual.parameters import (
    altup_parameters,
    gated_residual_parameters,
    hyper_parameters,
    laurel_parameters,
    ngram_parameters,
    per_layer_embeddings,
    per_layer_input,
    stream_parameters,
)
from llmcli.model.shared_row_config import BlocksConfig, SharedRowConfig


def parameters_of(config: ModelConfig) -> dict[str, ParameterInfo]:
    """All parameters of `Transformer(config)` by name, in the order of its `named_parameters`; a tied head has none."""
    return dict(_transformer(config))


def used_by_a_token(config: ModelConfig, parameter: str, amount: int) -> int:
    """How much of an `amount`, of values or bytes of a parameter, one token uses.

    That is the part of the chosen experts, the row of each hash in a table of n-grams, and everything elsewhere.
    """
    if not parameter.startswith("layers."):
        return amount
    layer = config.layers[int(parameter.split(".")[1])]
    if layer.experts is not None and ".mlp.experts." in parameter:
        return amount // layer.experts.count * layer.experts.chosen
    if layer.ngram is not None and parameter.endswith(".ngram.table.weight"):
        return amount // layer.ngram.rows * len(layer.ngram.parts)
    return amount


def _transformer(config: ModelConfig) -> Named:
    hidden = config.hidden_size
    yield "embed_tokens.weight", ParameterInfo((config.token_rows, hidden))
    if config.learned_positions:
        yield "embed_positions.weight", ParameterInfo((config.context_length, hidden))
    if config.embed_norm is not None:
        yield from within("embed_norm", norm_weights((hidden,), config.embed_norm))
    if config.per_layer is not None:
        yield from within("per_layer_embeddings", per_layer_embeddings(config, config.per_layer))
    yield from stream_parameters(config)
    for index, layer in enumerate(config.layers):
        yield from within(f"layers.{index}", _block(config, layer))
    yield from within("norm", norm_weights((hidden,), config.final_norm or config.norm))
    if config.head_layer is not None:
        yield from within("head_layer.dense", linear(hidden, hidden, bias=config.head_layer.bias))
        yield from within("head_layer.norm", norm_weights((hidden,), config.norm))
    head = dict(linear(hidden, config.token_rows, bias=config.head_bias))
    if config.tie_embeddings:
        del head["weight"]
    yield from within("lm_head", iter(head.items()))


def _block(config: ModelConfig, layer: LayerConfig) -> Named:
    placement = config.placement_of(layer)
    if config.layer_scale:
        yield "layer_scalar", ParameterInfo((1,))
    norm = dict(norm_weights((config.hidden_size,), config.norm))
    inputs = placement not in ("post", "sum") and config.gated_residual is None
    if layer.parts != "feed_forward":
        if inputs and layer.input_norm:
            yield from within("input_layernorm", iter(norm.items()))
        both = (layer.mixer,) if layer.beside is None else (layer.mixer, layer.beside)
        for mixer in both:
            name = mixer_module(mixer)
            yield from within(name if len(both) == 1 else f"mixers.{name}", _mixer(config, layer, mixer))
    if layer.parts != "mixer":
        normed_inside = layer.experts is not None and layer.experts.own_norms
        if inputs and placement != "parallel_shared" and not normed_inside:
            yield from within("post_attention_layernorm", iter(norm.items()))
        if layer.experts is not None:
            yield from within("mlp", _mixture_of_experts(config, layer.experts))
        elif layer.channel_mixing:
            yield from within("mlp", _channel_mixing(config.hidden_size, config.width_of(layer)))
        else:
            yield from within("mlp", _feed_forward(config, config.width_of(layer), gated=config.gated))
    if placement in ("post", "sandwich", "sum"):
        yield from within("attention_output_norm", iter(norm.items()))
    if placement in ("post", "sandwich", "sum") or (layer.experts is not None and layer.experts.output_norm):
        yield from within("mlp_output_norm", iter(norm.items()))
    if layer.ngram is not None:
        yield from within("ngram", ngram_parameters(config, layer.ngram))
    if config.gated_residual is not None:
        for part in ("attention_residual", "mlp_residual"):
            yield from within(part, gated_residual_parameters(config, config.gated_residual))
    if config.altup is not None:
        yield from within("altup", altup_parameters(config, config.altup))
        yield from within("laurel", laurel_parameters(config, config.altup.laurel_rank))
    if config.per_layer is not None:
        yield from within("per_layer_input", per_layer_input(config, config.per_layer))
    if config.hyper is not None:
        for name in ("attn_hc", "ffn_hc"):
            yield from within(name, hyper_parameters(config, config.hyper))


def _mixer(config: ModelConfig, layer: LayerConfig, mixer: MixerConfig | None) -> Named:
    if mixer is not None:
        return mixer_parameters(config, mixer)
    if config.shared_row is not None:
        return _shared_row_attention(config, layer, config.shared_row)
    return _attention(config, layer) if config.latent is None else _latent_attention(config, layer, config.latent)


def _attention(config: ModelConfig, layer: LayerConfig) -> Named:
    shape = config.heads_of(layer)
    hidden, size = config.hidden_size, shape.key_dim
    if layer.sinks:
        yield "sinks", ParameterInfo((shape.count,))
    yield from within("q_proj", linear(hidden, shape.count * size, bias=config.qkv_bias))
    if layer.kv_from is None:
        yield from within("k_proj", linear(hidden, shape.kv_count * size, bias=config.qkv_bias))
    if layer.kv_from is None and not layer.key_is_value:
        yield from within("v_proj", linear(hidden, shape.kv_count * shape.value_dim, bias=config.qkv_bias))
    yield from within("o_proj", linear(shape.count * shape.value_dim, hidden, bias=config.o_bias))
    normed = {"q_norm": shape.count} | ({"k_norm": shape.kv_count} if layer.kv_from is None else {})
    for name, heads in normed.items():
        if config.qk_norm in ("head", "rotated_head"):
            yield from within(name, norm_weights((size,), config.norm))
        elif config.qk_norm == "whole":
            yield from within(name, norm_weights((heads * size,), config.norm))
        elif config.qk_norm == "each_head":
            yield from within(name, norm_weights((heads, size), config.norm, may_have_bias=False))
    if config.attention_gate is not None:
        gates = shape.count if config.attention_gate.per_head else shape.count * shape.value_dim
        yield from within("gate_proj", linear(hidden, gates))
    if config.sub_norms:
        yield "sub_norm.weight", ParameterInfo((shape.count * shape.value_dim,))
    if layer.block_index is not None:
        yield from within("indexer", _block_index(config, layer.block_index))


def _latent_attention(config: ModelConfig, layer: LayerConfig, latent: LatentConfig) -> Named:
    hidden, heads = config.hidden_size, config.num_heads
    rms = NormStyle()
    if latent.query_rank is None:
        yield from within("q_proj", linear(hidden, heads * latent.query_dim))
    else:
        yield from within("q_a_proj", linear(hidden, latent.query_rank, bias=config.qkv_bias))
        yield from within("q_a_layernorm", norm_weights((latent.query_rank,), rms))
        yield from within("q_b_proj", linear(latent.query_rank, heads * latent.query_dim))
    compressed = latent.rank + latent.rope_dim
    yield from within("kv_a_proj_with_mqa", linear(hidden, compressed, bias=config.qkv_bias))
    yield from within("kv_a_layernorm", norm_weights((latent.rank,), rms))
    yield from within("kv_b_proj", linear(latent.rank, heads * (latent.nope_dim + latent.value_dim)))
    if config.attention_gate is not None:
        yield from within("gate_proj", linear(hidden, heads))
    yield from within("o_proj", linear(heads * latent.value_dim, hidden, bias=config.o_bias))
    if layer.index is not None:
        yield from within("indexer", _key_index(config, layer.index, latent.query_rank or 0))


def _shared_row_attention(config: ModelConfig, layer: LayerConfig, shared: SharedRowConfig) -> Named:
    hidden, heads, size, rank = config.hidden_size, config.num_heads, config.head_dim, shared.query_rank
    if layer.sinks:
        yield "sinks", ParameterInfo((heads,), float32=True)
    yield from within("q_a_proj", linear(hidden, rank))
    yield from within("q_a_norm", norm_weights((rank,), config.norm))
    yield from within("q_b_proj", linear(rank, heads * size))
    yield from within("kv_proj", linear(hidden, size))
    yield from within("kv_norm", norm_weights((size,), config.norm))
    projected = shared.groups * shared.group_rank
    yield from within("o_a_proj", linear(heads * size // shared.groups, projected))
    yield from within("o_b_proj", linear(projected, hidden))
    if layer.blocks is not None:
        yield from within("compressed.compressor", _compressor(config, layer.blocks, size))
    if layer.blocks is not None and layer.index is not None:
        index = layer.index
        yield from within("compressed.indexer.compressor", _compressor(config, layer.blocks, index.size))
        yield from within("compressed.indexer.q_proj", linear(rank, index.heads * index.size))
        yield "compressed.indexer.weight_proj.weight", ParameterInfo((index.heads, hidden), float32=True)


def _compressor(config: ModelConfig, blocks: BlocksConfig, size: int) -> Named:
    width = blocks.sets * size
    yield "position_bias", ParameterInfo((blocks.rate, width), float32=True)
    yield from within("kv_proj", linear(config.hidden_size, width))
    yield from within("gate_proj", linear(config.hidden_size, width))
    yield from within("kv_norm", norm_weights((size,), config.norm))


def _key_index(config: ModelConfig, index: KeyIndexConfig, query_rank: int) -> Named:
    yield from within("q_proj", linear(query_rank, index.heads * index.size))
    yield from within("k_proj", linear(config.hidden_size, index.size))
    yield from within("k_norm", norm_weights((index.size,), NormStyle("layer", bias=True)))
    yield "weight_proj.weight", ParameterInfo((index.heads, config.hidden_size), float32=True)


def _block_index(config: ModelConfig, index: BlockIndexConfig) -> Named:
    yield from within("q_proj", linear(config.hidden_size, index.heads * index.size))
    yield from within("k_proj", linear(config.hidden_size, index.size))
    for name in ("q_norm", "k_norm"):
        yield from within(name, norm_weights((index.size,), config.norm))


def _feed_forward(config: ModelConfig, size: int, *, gated: bool) -> Named:
    hidden, bias = config.hidden_size, config.mlp_bias
    if gated:
        yield from within("gate_proj", linear(hidden, size, bias=bias))
    yield from within("up_proj", linear(hidden, size, bias=bias))
    yield from within("down_proj", linear(size, hidden, bias=bias))
    if config.activation == "xielu":
        yield "activation.alpha_p", ParameterInfo((1,))
        yield "activation.alpha_n", ParameterInfo((1,))
    if config.sub_norms:
        yield "sub_norm.weight", ParameterInfo((size,))


def _channel_mixing(hidden: int, size: int) -> Named:
    yield "time_mix_key", ParameterInfo((hidden,))
    yield "time_mix_receptance", ParameterInfo((hidden,))
    yield from within("up_proj", linear(hidden, size))
    yield from within("down_proj", linear(size, hidden))
    yield from within("receptance", linear(hidden, hidden))


def _mixture_of_experts(config: ModelConfig, experts: ExpertsConfig) -> Named:
    count, size, hidden = experts.count, experts.intermediate_size, config.hidden_size
    read = experts.latent_size or hidden
    yield "gate.weight", ParameterInfo((count, hidden), float32=experts.float32_router)
    if experts.router_bias:
        yield "gate.bias", ParameterInfo((count,))
    if experts.router_scale:
        yield "gate.scale", ParameterInfo((hidden,))
    if experts.expert_scale:
        yield "gate.per_expert_scale", ParameterInfo((count,))
    if experts.selection_bias:
        yield "gate.e_score_correction_bias", ParameterInfo((count,), float32=True)
    if experts.by_token:
        yield "gate.tid2eid", ParameterInfo((config.vocab_size, experts.chosen), below=count)
    count = experts.held_range[1] - experts.held_range[0]
    if experts.gated:
        yield "experts.gate_up_proj", ParameterInfo((count, 2 * size, read))
    else:
        yield "experts.up_proj", ParameterInfo((count, size, read))
    yield "experts.down_proj", ParameterInfo((count, read, size))
    if experts.bias:
        yield "experts.gate_up_proj_bias", ParameterInfo((count, 2 * size))
        yield "experts.down_proj_bias", ParameterInfo((count, hidden))
    if experts.latent_size is not None:
        yield from within("latent_in", linear(hidden, read, bias=config.mlp_bias))
        yield from within("latent_out", linear(read, hidden, bias=config.mlp_bias))
    if experts.shared_size:
        yield from within("shared_expert", _feed_forward(config, experts.shared_size, gated=experts.gated))
    if experts.shared_gate:
        yield from within("shared_expert_gate", linear(hidden, 1))
    if experts.own_norms:
        for name in ("shared_norm", "shared_output_norm", "experts_norm", "experts_output_norm"):
            yield from within(name, norm_weights((hidden,), config.norm))
