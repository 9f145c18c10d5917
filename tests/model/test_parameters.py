"""The parameters computed from a configuration are those that the modules create."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from llmcli.model import (
    AttentionGate,
    ExpertsConfig,
    HeadLayer,
    KeyIndexConfig,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
)
from llmcli.model.meta_device import meta_model
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, RglruConfig, ShortConvConfig
from llmcli.model.parameters import parameters_of

DENSE = LayerConfig(None)
DELTA = DeltaConfig(2, 4, 5, 6, 4)
KIMI = DeltaConfig(2, 2, 5, 6, 4, decay="channel", gate_rank=3)
MAMBAS = (
    Mamba2Config(4, 3, 2, 5, 4), Mamba2Config(4, 3, 2, 5, 4, conv_bias=False, bias=True, norm=None),
    MambaConfig(10, 3, 2, 4), MambaConfig(10, 3, 2, 4, conv_bias=False, bias=True, norms="weights"),
)  # fmt: skip
CONV = LayerConfig(None, window=3, mixer=ShortConvConfig(3))
PLAIN = ModelConfig(
    vocab_size=40, hidden_size=12, intermediate_size=20, num_heads=4, num_kv_heads=2, head_dim=6, context_length=16,
    norm_eps=1e-5, layers=(DENSE, DENSE),
)  # fmt: skip
BIASES = {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "head_bias": True}
LATENT = LatentConfig(query_rank=5, rank=7, nope_dim=4, rope_dim=2, value_dim=3)
NORMS = (
    NormStyle(), NormStyle(plus_one=True), NormStyle(round_first=False), NormStyle("layer", bias=True),
    NormStyle("layer"), NormStyle("layer", weight=False),
)  # fmt: skip


def changed(**changes: Any) -> ModelConfig:
    return replace(PLAIN, **changes)


def mixture(**knobs: Any) -> ModelConfig:
    experts = ExpertsConfig(6, 2, 8, **knobs)
    return changed(layers=(DENSE, LayerConfig(None, experts=experts)), mlp_bias=True)


def created(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in meta_model(config).named_parameters()]


def computed(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, parameter.shape) for name, parameter in parameters_of(config).items()]


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "parallel", "parallel_shared", "sum"])
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_parameters_of_blocks_of_every_placement_and_norm(placement: str, norm: NormStyle) -> None:
    for scale, qk_norm in itertools.product((1.0, 0.5), (None, "head", "whole", "each_head", "rotated")):
        if scale != 1 and (placement == "sum" or (placement in ("post", "sandwich") and norm != NormStyle())):
            # No model scales the outputs of other norms, or what is added to sums that are normalized.
            continue
        config = changed(placement=placement, norm=norm, residual_scale=scale, qk_norm=qk_norm)
        assert computed(config) == created(config)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        changed(tie_embeddings=True),
        changed(tie_embeddings=True, head_bias=True),
        changed(learned_positions=True, gated=False, layers=(LayerConfig(None, sinks=True), DENSE), **BIASES),
        changed(latent=LATENT, **BIASES),
        changed(latent=replace(LATENT, query_rank=None)),
        changed(
            latent=LATENT, layers=(LayerConfig(None, index=KeyIndexConfig(3, 4, 2)), LayerConfig(None, index_from=0))
        ),
        mixture(),
        changed(head_layer=HeadLayer(bias=True), layers=(LayerConfig(None, input_norm=False), DENSE)),
        changed(attention_gate=AttentionGate(), sub_norms=True, qk_norm="rotated_head"),
        changed(attention_gate=AttentionGate(per_head=True), qk_norm="weightless", embed_norm=NormStyle(weight=False)),
        changed(activation="xielu", gated=False, final_norm=NormStyle("layer", bias=True), embed_norm=NormStyle()),
        mixture(output_norm=True, shared_size=10),
        mixture(router_bias=True, selection_bias=True, bias=True),
        mixture(shared_size=10, shared_gate=True, float32_router=True),
        replace(mixture(shared_size=10), gated=False),
        changed(layers=(CONV, replace(CONV, mixer=ShortConvConfig(4, bias=True)), replace(CONV, parts="mixer"))),
        changed(layers=(replace(DENSE, mixer=DELTA), replace(DENSE, mixer=KIMI))),
        changed(layers=tuple(replace(DENSE, mixer=mamba) for mamba in MAMBAS)),
        changed(layers=(replace(DENSE, mixer=RglruConfig(6, 2, 3)),)),
        mixture(gated=False, latent_size=5, shared_size=10),
        changed(layers=(replace(DENSE, beside=DELTA), replace(CONV, beside=DELTA))),
        changed(layers=(replace(DENSE, parts="mixer"), replace(DENSE, parts="feed_forward"))),
    ],
)
def test_parameters_of_every_optional_part(config: ModelConfig) -> None:
    assert computed(config) == created(config)
    assert sum(parameter.values for parameter in parameters_of(config).values()) == sum(
        parameter.numel() for parameter in meta_model(config).parameters()
    )
