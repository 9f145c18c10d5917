"""StableLM, StarCoder 2, ModernBERT's decoders, Nemotron, Apertus, nanochat, HyperCLOVAX and Kolibri."""

from __future__ import annotations

from dataclasses import replace

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, shape_rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import (
    BASE,
    EXPERT_COUNT,
    LAYER_EPS,
    LAYER_NORM,
    LAYER_NORM_BASE,
    LAYER_NORM_WITHOUT_BIAS,
)
from llmcli.model import NormStyle

_APERTUS = Family(
    {
        **BASE,
        "hidden_act": "xielu",
        "rope_theta": 12e6,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 65536,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 12e6,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    },
    gated=False,
    qk_norm="head",
)

FAMILIES: dict[str, Family] = {
    "stablelm": Family(
        {**LAYER_NORM_BASE, "partial_rotary_factor": 0.25, "max_position_embeddings": 4096},
        aliases={**LAYER_EPS, "partial_rotary_factor": ("partial_rotary_factor", "rope_pct")},
        norm=LAYER_NORM,
        rope=RopeRules(partial=True),
        extras=extra_rules.stablelm_extras,
        biases=BiasKeys("use_qkv_bias"),
    ),
    "starcoder2": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 2, "sliding_window": None}
        | {"max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_epsilon",)},
        norm=LAYER_NORM,
        gated=False,
        biases=BiasKeys("use_bias", "use_bias", "use_bias"),
        layer_types=layer_rules.all_sliding,
    ),
    "nemotron": Family(
        {**LAYER_NORM_BASE, "hidden_act": "relu2", "partial_rotary_factor": 0.5, "max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_eps",)},
        norm=NormStyle("layer", bias=True, plus_one=True),
        gated=False,
        rope=RopeRules(partial=True),
    ),
    # Apertus, and the text model of Apertus 1.5.
    "apertus": _APERTUS,
    "apertus1p5_text": replace(_APERTUS, extras=extra_rules.apertus_extras, spare_embeddings=True),
    # Ettin's decoders.
    "modernbert-decoder": Family(
        {
            **LAYER_NORM_BASE,
            "hidden_act": "gelu",
            "rope_theta": 160_000.0,
            "local_rope_theta": 1e4,
            "local_attention": 128,
            "sliding_window": 64,
            "global_attn_every_n_layers": 3,
            "classifier_activation": "gelu",
            "max_position_embeddings": 8192,
        },
        aliases={
            "rms_norm_eps": ("norm_eps",),
            "hidden_act": ("hidden_activation",),
            "rope_theta": ("global_rope_theta",),
            "num_key_value_heads": (),
        },
        norm=LAYER_NORM_WITHOUT_BIAS,
        layer_types=layer_rules.modernbert_types,
        lists_layer_types=True,
        layer_extras=shape_rules.modernbert_layer_extras,
        rope=RopeRules(scaled_layers_only=FULL, local_theta="local_rope_theta", by_layer_type=True),
        extras=extra_rules.modernbert_extras,
        supported_values={"rope_scaling": ()},
    ),
    # Karpathy's nanochat.
    "nanochat": Family(
        {**BASE, "hidden_act": "relu2", "final_logit_softcapping": 15.0},
        norm=NormStyle(weight=False),
        gated=False,
        qk_norm="rotated",
        extras=extra_rules.nanochat_extras,
        turned_back=True,
    ),
    # HyperCLOVAX SEED Think.
    "hyperclovax": Family(
        {**BASE, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0, "use_post_norm": True},
        extras=extra_rules.hyperclovax_extras,
        own_names={"attention_output_norm": "post_norm1", "mlp_output_norm": "post_norm2"},
    ),
    # Aleph Alpha's Kolibri 1.
    "kolibri1": Family(
        {
            **BASE,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "sliding_window": 513,
            "sliding_window_pattern": 5,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 384,
            "num_experts_per_tok": 6,
            "max_position_embeddings": 262144,
        },
        aliases={**EXPERT_COUNT, "sliding_window_pattern": ()},
        placement="sandwich",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope_if_any,
        experts=expert_rules.kolibri_experts,
        own_names={"attention_output_norm": "post_attn_norm", "mlp_output_norm": "post_ffn_norm"},
    ),
}
