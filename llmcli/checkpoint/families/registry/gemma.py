"""Gemma."""

from __future__ import annotations

from llmcli.checkpoint.families import extra_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, CENTERED_RMS, SANDWICH, WINDOW_PATTERN

_GEMMA_ACTIVATION = {"hidden_act": ("hidden_activation",)}
_GEMMA = {**BASE, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA3 = {
    **_GEMMA,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131072,
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}

FAMILIES: dict[str, Family] = {
    "gemma": Family({**_GEMMA, "num_key_value_heads": 16}, norm=CENTERED_RMS, extras=extra_rules.gemma1_extras),
    "gemma2": Family(
        {
            **_GEMMA,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        aliases=_GEMMA_ACTIVATION,
        norm=CENTERED_RMS,
        placement="sandwich",
        layer_types=layer_rules.even_sliding,
        lists_layer_types=True,
        extras=extra_rules.gemma2_scales,
        own_names=SANDWICH,
    ),
    "gemma3_text": Family(
        _GEMMA3,
        aliases={**_GEMMA_ACTIVATION, **WINDOW_PATTERN},
        norm=CENTERED_RMS,
        placement="sandwich",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope=RopeRules(scaled_layers_only=layer_rules.FULL, local_theta="rope_local_base_freq", by_layer_type=True),
        extras=extra_rules.gemma3_scales,
        own_names=SANDWICH,
    ),
    "vaultgemma": Family(
        {
            **_GEMMA,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        aliases=_GEMMA_ACTIVATION,
        norm=CENTERED_RMS,
        layer_types=layer_rules.even_sliding,
        lists_layer_types=True,
        extras=extra_rules.gemma2_scales,
        own_names={"post_attention_layernorm": "pre_feedforward_layernorm"},
    ),
}
