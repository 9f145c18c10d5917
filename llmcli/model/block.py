"""One layer of the model: attention, or what replaces it, and feed-forward around the residual stream.

Dimension letters: B batch, T new tokens, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmcli.model.attention.attention import Attention, Positions
from llmcli.model.attention.latent_attention import LatentAttention
from llmcli.model.attention.shared_row_attention import SharedRowAttention
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import LayerConfig, ModelConfig, NormStyle, Placement
from llmcli.model.experts_beside import ExpertsBesideDense
from llmcli.model.feed_forward import FeedForward, PlainFeedForward
from llmcli.model.mixer_config import (
    DeltaConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    MlstmConfig,
    RglruConfig,
    Rwkv4Config,
    ShortConvConfig,
    mixer_module,
)
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.norm import Scale, ScaledRMSNorm, make_norm
from llmcli.model.recurrent.delta_net import DeltaNet
from llmcli.model.recurrent.mamba import Mamba
from llmcli.model.recurrent.mamba2 import Mamba2
from llmcli.model.recurrent.mlstm import Mlstm
from llmcli.model.recurrent.rglru import Rglru
from llmcli.model.recurrent.rwkv4 import ChannelMixing, ChannelShift, TimeMixing
from llmcli.model.recurrent.short_conv import ShortConv
from llmcli.model.recurrent.two_mixers import TwoMixers
from llmcli.model.residual.altup import AltUp
from llmcli.model.residual.gated_residual import GatedResidual, to_streams
from llmcli.model.residual.hyper_connections import HyperConnection
from llmcli.model.residual.laurel import Laurel
from llmcli.model.residual.ngram_embeddings import NgramEmbeddings
from llmcli.model.residual.per_layer_embeddings import PerLayerInput


class Block(nn.Module):
    """One layer: attention and feed-forward, each adding to the residual stream.

    The second norm is named after its place, behind attention, as in Llama's checkpoints. Attention has another name
    where it is another network: `mixer` is the one that the layer has.
    """

    self_attn: nn.Module
    mlp: nn.Module

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__()
        normed_inside = layer.experts is not None and layer.experts.own_norms
        placement = config.placement_of(layer)
        inputs = placement not in ("post", "sum") and config.gated_residual is None
        both = placement != "parallel_shared" and not normed_inside
        self.mixer_name = "mixers" if layer.beside is not None else mixer_module(layer.mixer)
        if layer.parts != "feed_forward":
            self.input_layernorm = _norm(config, present=inputs and layer.input_norm)
            self.add_module(self.mixer_name, make_mixer(config, layer, index))
        if layer.parts != "mixer":
            self.post_attention_layernorm = _norm(config, present=both and inputs)
            self.mlp = _feed_forward(config, layer)

    @property
    def mixer(self) -> nn.Module:
        """Attention, or what the layer has instead."""
        mixer: nn.Module = getattr(self, self.mixer_name)
        return mixer

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.mixer(self.input_layernorm(x), place, cache)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504 (the two lines a reader looks for)


class OutputNormBlock(Block):
    """A layer that normalizes or scales the outputs of attention and feed-forward, with or without input norms."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        self.attention_output_norm = _output_norm(config, layer)
        normed = layer.experts is not None and layer.experts.output_norm
        self.mlp_output_norm = _norm(config, present=True) if normed else _output_norm(config, layer)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention_output_norm(self.mixer(self.input_layernorm(x), place, cache))
        x = x + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(x)))
        return x  # noqa: RET504


class ScaledBlock(OutputNormBlock):
    """A layer that may add its part of the per-layer embeddings, and multiplies its output by a number (Gemma 4)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        self.index = index
        self.per_layer_input = None if config.per_layer is None else PerLayerInput(config, config.per_layer)
        self.layer_scalar = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = super().forward(x, place, cache)
        if self.per_layer_input is not None:
            assert place.per_layer is not None
            x = x + self.per_layer_input(x, place.per_layer[:, :, self.index])
        return x * self.layer_scalar


class AltUpBlock(OutputNormBlock):
    """A layer that computes on the first of several residual streams, with a path of low rank beside attention."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        assert config.altup is not None and config.per_layer is not None
        self.index = index
        self.altup = AltUp(config, config.altup)
        self.laurel = Laurel(config, config.altup.laurel_rank)
        self.per_layer_input = PerLayerInput(config, config.per_layer)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Streams (B, T, S C) -> (B, T, S C)."""
        predicted = self.altup.predict(x)  # (B, T, S, C)
        first = predicted[:, :, 0]
        normed = self.input_layernorm(first)
        attended = first + self.attention_output_norm(self.mixer(normed, place, cache))
        attended = (attended + self.laurel(normed)) / 2**0.5
        activated = attended + self.mlp_output_norm(self.mlp(self.post_attention_layernorm(attended)))
        streams = self.altup.correct(predicted, activated)
        assert place.per_layer is not None
        added = self.per_layer_input(self.altup.scaled(streams[:, :, 0]), place.per_layer[:, :, self.index])
        # The first stream is what attention and feed-forward made of it; the others get the token's vector.
        return torch.cat((streams[:, :, :1], streams[:, :, 1:] + added[:, :, None]), dim=2).flatten(2)


class HyperBlock(Block):
    """A layer whose parts read several residual streams, write to all of them, and mix them (DeepSeek-V4)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        assert config.hyper is not None
        self.by_token = layer.experts is not None and layer.experts.by_token
        self.attn_hc = HyperConnection(config, config.hyper)
        self.ffn_hc = HyperConnection(config, config.hyper)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Streams (B, T, S C) -> (B, T, S C)."""
        ids = (place.ids,) if self.by_token else ()
        x = self.attn_hc(x, lambda read: self.mixer(self.input_layernorm(read), place, cache))
        x = self.ffn_hc(x, lambda read: self.mlp(self.post_attention_layernorm(read), *ids))
        return x  # noqa: RET504


class GatedResidualBlock(Block):
    """A layer of several residual streams, each part of which reads and writes them through gates (Qwen4-exp).

    It has no other norms. Before attention, embeddings of n-grams may be added to the streams.
    """

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        assert config.gated_residual is not None
        self.ngram = None if layer.ngram is None else NgramEmbeddings(config, layer.ngram, index)
        self.attention_residual = GatedResidual(config, config.gated_residual)
        self.mlp_residual = GatedResidual(config, config.gated_residual)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """Streams (B, T, S C) -> (B, T, S C)."""
        if self.ngram is not None:
            assert place.ids is not None
            x = x + self.ngram(x, place.ids, cache)
        read, shares = self.attention_residual(x)
        x = x + to_streams(self.mixer(read, place, cache), shares)
        read, shares = self.mlp_residual(x)
        x = x + to_streams(self.mlp(read), shares)
        return x  # noqa: RET504


class ParallelBlock(Block):
    """A layer whose attention and feed-forward both read the layer's input (Wang & Komatsuzaki 2021, GPT-J)."""

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        attended: Tensor = self.mixer(self.input_layernorm(x), place, cache)
        x = x + attended + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504


class SharedNormBlock(Block):
    """A parallel layer with one norm for attention and feed-forward."""

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        normed = self.input_layernorm(x)
        attended: Tensor = self.mixer(normed, place, cache)
        x = x + attended + self.mlp(normed)
        return x  # noqa: RET504


class SumNormBlock(Block):
    """A layer that normalizes the residual stream after each addition (Radford et al. 2018, GPT-1)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        self.attention_output_norm = _norm(config, present=True)
        self.mlp_output_norm = _norm(config, present=True)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.attention_output_norm(x + self.mixer(x, place, cache))
        y: Tensor = self.mlp_output_norm(x + self.mlp(x))
        return y


class MixerBlock(Block):
    """A layer without a feed-forward network."""

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.mixer(self.input_layernorm(x), place, cache)
        return x  # noqa: RET504


class ChannelMixingBlock(Block):
    """A layer whose feed-forward network also reads the token before (RWKV-4)."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int) -> None:
        super().__init__(config, layer, index)
        self.channel_shift = ChannelShift(config.num_layers + index)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.mixer(self.input_layernorm(x), place, cache)
        x = x + self.mlp(self.channel_shift(self.post_attention_layernorm(x), cache))
        return x  # noqa: RET504


class FeedForwardBlock(Block):
    """A layer that is only a feed-forward network."""

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504


_KINDS: dict[Placement, type[Block]] = {
    "pre": Block,
    "post": OutputNormBlock,
    "sandwich": OutputNormBlock,
    "parallel": ParallelBlock,
    "parallel_shared": SharedNormBlock,
    "sum": SumNormBlock,
}


def make_block(config: ModelConfig, layer: LayerConfig, index: int) -> Block:
    """Make the block of a layer, of the kind that the configuration calls for."""
    normed = layer.experts is not None and layer.experts.output_norm
    kind = OutputNormBlock if normed or config.residual_scale != 1 else _KINDS[config.placement_of(layer)]
    if config.gated_residual is not None:
        if kind is not Block or layer.parts != "both" or layer.beside is not None:
            raise ValueError("layers with gated residual streams have attention and feed-forward without other norms")
        kind = GatedResidualBlock
    elif layer.ngram is not None:
        raise ValueError("n-gram embeddings are added to gated residual streams")
    elif config.altup is not None:
        kind = AltUpBlock
    elif config.hyper is not None and kind is Block:
        kind = HyperBlock
    elif config.layer_scale:
        kind = ScaledBlock
    if layer.experts is not None and layer.experts.by_token and kind is not HyperBlock:
        raise ValueError("only layers with hyper-connections can choose experts by the token")
    if config.placement_of(layer) == "sum" and kind is not SumNormBlock:
        raise ValueError("what is added to a sum that is normalized has neither a factor nor another norm")
    if layer.parts != "both" or layer.channel_mixing:
        if kind is not Block:
            raise ValueError("only layers that normalize their inputs alone can have a single part, or channel mixing")
        one = MixerBlock if layer.parts == "mixer" else FeedForwardBlock
        kind = ChannelMixingBlock if layer.channel_mixing else one
    return kind(config, layer, index)


_MIXERS: dict[type, Callable[..., nn.Module]] = {
    DeltaConfig: DeltaNet,
    Mamba2Config: Mamba2,
    MambaConfig: Mamba,
    RglruConfig: Rglru,
    MlstmConfig: Mlstm,
    Rwkv4Config: TimeMixing,
    ShortConvConfig: ShortConv,
}


def make_mixer(config: ModelConfig, layer: LayerConfig, index: int) -> nn.Module:
    """Attention or what a layer has instead, or both; called with (x (B, T, C), `Positions`, cache) -> (B, T, C)."""
    if layer.beside is None:
        return _mixer(config, layer, layer.mixer, index)
    both = (_mixer(config, layer, mixer, index) for mixer in (layer.mixer, layer.beside))
    return TwoMixers(dict(zip(map(mixer_module, (layer.mixer, layer.beside)), both, strict=True)))


def _mixer(config: ModelConfig, layer: LayerConfig, mixer: MixerConfig | None, index: int) -> nn.Module:
    if mixer is not None:
        return _MIXERS[type(mixer)](config, mixer, index)
    if config.latent is not None:
        return LatentAttention(config, config.latent, layer, index)
    if config.shared_row is not None:
        return SharedRowAttention(config, config.shared_row, layer, index)
    return Attention(config, layer, index)


def _norm(config: ModelConfig, *, present: bool) -> nn.Module:
    return make_norm(config.hidden_size, config.norm_eps, config.norm) if present else nn.Identity()


def _output_norm(config: ModelConfig, layer: LayerConfig) -> nn.Module:
    """The norm of what attention or feed-forward adds, its factor, or both."""
    if config.placement_of(layer) not in ("post", "sandwich"):
        return nn.Identity() if config.residual_scale == 1 else Scale(config.residual_scale)
    eps = config.norm_eps if config.post_norm_eps is None else config.post_norm_eps
    if config.residual_scale == 1:
        return make_norm(config.hidden_size, eps, config.norm)
    if config.norm != NormStyle():
        raise ValueError("only plain RMSNorm can have a factor on its output")
    return ScaledRMSNorm(config.hidden_size, eps, config.residual_scale)


def _feed_forward(config: ModelConfig, layer: LayerConfig) -> nn.Module:
    if layer.experts is not None:
        mixture = ExpertsBesideDense if layer.experts.own_norms else MixtureOfExperts
        return mixture(config, layer.experts)
    hidden, width, bias = config.hidden_size, config.width_of(layer), config.mlp_bias
    if layer.channel_mixing:
        return ChannelMixing(hidden, width)
    if not config.gated:
        return PlainFeedForward(hidden, width, config.activation, bias=bias)
    eps = config.norm_eps if config.sub_norms else None
    return FeedForward(hidden, width, config.activation, bias=bias, sparsity=layer.sparsity, sub_norm_eps=eps)
