"""Parameters of what is added to the residual stream, from the configuration alone; see `llmcli.model.parameters`."""

from __future__ import annotations

from llmcli.model.config import ModelConfig
from llmcli.model.parameter_info import Named, ParameterInfo, linear, norm_weights, within
from llmcli.model.residual_config import (
    AltupConfig,
    GatedResidualConfig,
    HyperConfig,
    NgramConfig,
    PerLayerConfig,
)


def stream_parameters(config: ModelConfig) -> Named:
    """Those that make several residual streams of one, and one of several."""
    if config.altup is not None:
        shape = config.altup.streams - 1, config.hidden_size, config.hidden_size
        yield "altup_streams.projections", ParameterInfo(shape)
        yield "altup_streams.unembed_projections", ParameterInfo(shape)
    if config.hyper is not None:
        yield from within("hyper_streams", _hyper(config, config.hyper, config.hyper.streams, 1))
    if config.gated_residual is not None:
        mixer = gated_residual_parameters(config, config.gated_residual, writes=False)
        yield from within("gated_streams.mixer", mixer)


def hyper_parameters(config: ModelConfig, hyper: HyperConfig) -> Named:
    """Those of the hyper-connections of one part of a block."""
    return _hyper(config, hyper, (2 + hyper.streams) * hyper.streams, 3)


def _hyper(config: ModelConfig, hyper: HyperConfig, outputs: int, scales: int) -> Named:
    """All are in float32: small matrices that decide about whole streams."""
    yield "fn", ParameterInfo((outputs, hyper.streams * config.hidden_size), float32=True)
    yield "base", ParameterInfo((outputs,), float32=True)
    yield "scale", ParameterInfo((scales,), float32=True)


def gated_residual_parameters(config: ModelConfig, gated: GatedResidualConfig, *, writes: bool = True) -> Named:
    """Those of one part of a block with gated residual streams."""
    width = gated.streams * config.hidden_size
    yield from within("norm", norm_weights((gated.streams, config.hidden_size), config.norm))
    yield from within("mix_down", linear(width, gated.rank))
    yield from within("mix_up", linear(gated.rank, width))
    if writes:
        yield from within("inject", linear(width, gated.streams))


def ngram_parameters(config: ModelConfig, ngram: NgramConfig) -> Named:
    """Those of the n-gram embeddings of a layer."""
    width = config.streams * config.hidden_size
    yield "table.weight", ParameterInfo((ngram.rows, ngram.size // len(ngram.parts)))
    yield from within("key_proj", linear(ngram.size, width))
    yield from within("value_proj", linear(ngram.size, config.hidden_size))
    for name in ("key_norm", "query_norm", "conv_norm"):
        yield from within(name, norm_weights((config.streams, config.hidden_size), config.norm))
    yield "conv.weight", ParameterInfo((width, ngram.conv_width))


def per_layer_embeddings(config: ModelConfig, per_layer: PerLayerConfig) -> Named:
    """Those of the table of per-layer embeddings, and of what is added to it."""
    width = config.num_layers * per_layer.size
    yield "embed_tokens.weight", ParameterInfo((per_layer.vocab_size, width))
    yield from within("projection", linear(config.hidden_size, width))
    yield from within("norm", norm_weights((per_layer.size,), config.norm))


def per_layer_input(config: ModelConfig, per_layer: PerLayerConfig) -> Named:
    """Those of a layer that reads its part of them."""
    yield from within("gate", linear(config.hidden_size, per_layer.size))
    yield from within("projection", linear(per_layer.size, config.hidden_size))
    yield from within("norm", norm_weights((config.hidden_size,), config.norm))


def altup_parameters(config: ModelConfig, altup: AltupConfig) -> Named:
    """Those by which a layer predicts and corrects streams."""
    if altup.scaled:
        yield "correct_output_scale", ParameterInfo((config.hidden_size,))
    yield from within("correction_coefs", linear(altup.streams, altup.streams))
    yield from within("prediction_coefs", linear(altup.streams, altup.streams**2))
    yield from within("modality_router", linear(config.hidden_size, altup.streams))
    yield from within("router_norm", norm_weights((config.hidden_size,), config.norm))


def laurel_parameters(config: ModelConfig, rank: int) -> Named:
    """Those of the path of low rank beside attention."""
    yield from within("linear_left", linear(config.hidden_size, rank))
    yield from within("linear_right", linear(rank, config.hidden_size))
    yield from within("post_laurel_norm", norm_weights((config.hidden_size,), config.norm))
