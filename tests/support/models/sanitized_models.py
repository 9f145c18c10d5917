"""Models made without a checkpoint, for slow processes under sanitizers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch

from llmcli.inspection.core.hooks import blocks
from llmcli.model import (
    Alibi,
    AltupConfig,
    AttentionGate,
    ClampedGLU,
    ExpertsConfig,
    HeadLayer,
    Heads,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
    PerLayerConfig,
    QueryScaling,
    Transformer,
)
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, RglruConfig, ShortConvConfig
from llmcli.model.rank_one_update import attach_edit
from llmcli.model.rope_config import RopeConfig
from tests.support.models.random_models import pack_model

_ROPE = RopeConfig(1e4, 6)
# Sizes that are multiples of none of the kernel's block sizes.
_PLAIN = ModelConfig(
    vocab_size=203,
    hidden_size=35,
    intermediate_size=77,
    num_heads=5,
    num_kv_heads=1,
    head_dim=10,
    context_length=128,
    norm_eps=1e-5,
    layers=(LayerConfig(_ROPE), LayerConfig(None, window=7)),
)
_EXPERTS = ExpertsConfig(5, 2, 19, score="softmax_of_chosen", router_bias=True, bias=True, glu=ClampedGLU(1.7, 7.0))
_SHARED = ExpertsConfig(
    6, 3, 33, "sigmoid", groups=3, groups_chosen=2, group_score="best_two", selection_bias=True, shared_size=21,
    shared_gate=True, scales_input=True, shared_scale=0.5, router_softcap=1.5,
)  # fmt: skip
_BESIDE = ExpertsConfig(5, 2, 19, shared_size=77, router_scale=True, expert_scale=True, own_norms=True)
_KEYS_OF = LayerConfig(None, kv_from=1, intermediate_size=90)
_GEMMA = replace(
    _PLAIN,
    placement="sandwich",
    value_norm=True,
    per_layer=PerLayerConfig(100, 13),
    layers=(
        LayerConfig(_ROPE, experts=_BESIDE, key_is_value=True, heads=Heads(4, 2, 14, 14)),
        LayerConfig(_ROPE, sparsity=0.5),
        LayerConfig(_ROPE, window=7, heads=Heads(6, 3, 6, 9)),
        _KEYS_OF,
    ),
)
_RECURRENT = (
    LayerConfig(None, mixer=DeltaConfig(2, 6, 7, 9, 3, beta_scale=2.0, tiled=True)),
    LayerConfig(None, mixer=DeltaConfig(3, 3, 19, 41, 4, decay="channel", gate="sigmoid", gate_rank=5)),
    LayerConfig(None, mixer=DeltaConfig(3, 3, 37, 5, 2, decay="channel", safe_decay=-5.0)),
    LayerConfig(None, mixer=ShortConvConfig(4, bias=True), window=4),
    LayerConfig(_ROPE, beside=Mamba2Config(6, 7, 3, 9, 4, bias=True, norm="norm_first"), window=7),
    LayerConfig(None, mixer=MambaConfig(37, 19, 5, 4, bias=True, norms="weights")),
    LayerConfig(None, mixer=RglruConfig(39, 3, 4)),
    LayerConfig(None, mixer=Mamba2Config(4, 5, 1, 17, 2, conv_bias=False, norm=None), parts="mixer"),
    LayerConfig(None, experts=replace(_SHARED, latent_size=40), parts="feed_forward"),
)
_CONFIGS = (
    replace(
        _PLAIN,
        qkv_bias=True,
        o_bias=True,
        qkv_clip=0.5,
        qk_norm="head",
        attention_gate=AttentionGate(),
        sub_norms=True,
    ),
    replace(
        _PLAIN,
        placement="sandwich",
        attention_softcap=3.0,
        logit_softcap=2.0,
        tie_embeddings=True,
        norm=NormStyle(plus_one=True),
        activation="gelu_tanh",
        qk_norm="whole",
        attention_gate=AttentionGate(per_head=True, activation="softplus"),
        embed_norm=NormStyle(),
    ),
    replace(
        _PLAIN,
        placement="parallel_shared",
        norm=NormStyle("layer", bias=True),
        gated=False,
        activation="xielu",
        mlp_bias=True,
        head_bias=True,
        learned_positions=True,
        qk_norm="each_head",
        alibi=Alibi(),
    ),
    replace(_PLAIN, layers=(LayerConfig(_ROPE, experts=_EXPERTS, sinks=True), LayerConfig(_ROPE, window=5))),
    replace(
        _PLAIN,
        qk_norm="rotated",
        residual_scale=0.4,
        num_kv_heads=5,
        layers=(LayerConfig(_ROPE, chunk=8, experts=_SHARED), LayerConfig(_ROPE, query_scaling=QueryScaling(0.1, 8))),
    ),
    replace(_GEMMA, layer_scale=True),
    replace(_PLAIN, placement="sum", final_norm=NormStyle("none"), head_layer=HeadLayer(bias=True)),
    replace(_PLAIN, num_kv_heads=5, latent=LatentConfig(13, 17, 9, 6, 11)),
    replace(_PLAIN, layers=_RECURRENT),
    replace(_GEMMA, altup=AltupConfig(3, laurel_rank=7), layers=(*_GEMMA.layers[1:3], replace(_KEYS_OF, kv_from=0))),
    # Sizes of heads for which attention has special code.
    replace(_PLAIN, head_dim=64, int8_cache=True),
    replace(_PLAIN, head_dim=32),
)


@torch.no_grad()
def models() -> Iterator[Transformer]:
    """Every configuration with weights in float32, bfloat16, 4 and 8 bits, some with rank-one updates."""
    for config in _CONFIGS:
        torch.manual_seed(0)
        model = Transformer(config)
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2)
            if name.endswith(".A"):
                parameter.abs_().neg_()
        if config in _CONFIGS[:3]:
            for _ in range(2):
                attach_edit(
                    blocks(model)[0].mlp, torch.randn(config.intermediate_size), torch.randn(config.hidden_size)
                )
        yield model
        yield copy.deepcopy(model).bfloat16()
        yield pack_model(copy.deepcopy(model), 4)
        yield pack_model(copy.deepcopy(model), 8)
