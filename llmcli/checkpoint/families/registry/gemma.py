"""Gemma."""

from __future__ import annotations

from dataclasses import replace

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, shape_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, CENTERED_RMS, LATE_RMS, SANDWICH, WINDOW_PATTERN

_GEMMA_ACTIVATION = {"hidden_act": ("hidden_activation",)}
_GEMMA = {**BASE, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA2 = {
    **_GEMMA,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
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

_GEMMA4_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
_GEMMA4 = Family(
    {
        **_GEMMA,
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "global_head_dim": 512,
        "max_position_embeddings": 131072,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "rope_parameters": _GEMMA4_ROPE,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
    },
    aliases={
        **_GEMMA_ACTIVATION,
        "num_experts_per_tok": ("top_k_experts",),
        "sliding_window_pattern": (),
        "partial_rotary_factor": (),
    },
    norm=LATE_RMS,
    placement="sandwich",
    qk_norm="head",
    layer_types=layer_rules.mostly_sliding_then_full,
    lists_layer_types=True,
    rope=RopeRules(by_layer_type=True),
    experts=expert_rules.gemma4_experts,
    heads=shape_rules.gemma4_heads,
    layer_extras=shape_rules.gemma4_layer_extras,
    extras=extra_rules.gemma4_extras,
    capped_in_wrappers=True,
    own_names={
        **SANDWICH,
        "mlp.gate": "router.proj",
        "mlp.shared_expert.gate_proj": "mlp.gate_proj",
        "mlp.shared_expert.up_proj": "mlp.up_proj",
        "mlp.shared_expert.down_proj": "mlp.down_proj",
        "mlp.shared_norm": "pre_feedforward_layernorm",
        "mlp.shared_output_norm": "post_feedforward_layernorm_1",
        "mlp.experts_norm": "pre_feedforward_layernorm_2",
        "mlp.experts_output_norm": "post_feedforward_layernorm_2",
    },
)

FAMILIES: dict[str, Family] = {
    "gemma": Family({**_GEMMA, "num_key_value_heads": 16}, norm=CENTERED_RMS, extras=extra_rules.gemma1_extras),
    "gemma2": Family(
        _GEMMA2,
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
        _GEMMA2,
        aliases=_GEMMA_ACTIVATION,
        norm=CENTERED_RMS,
        layer_types=layer_rules.even_sliding,
        lists_layer_types=True,
        extras=extra_rules.gemma2_scales,
        own_names={"post_attention_layernorm": "pre_feedforward_layernorm"},
    ),
    # Gemma 3n: E2B and E4B.
    "gemma3n_text": Family(
        {
            **_GEMMA,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "vocab_size": 262400,
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 35,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "sliding_window_pattern": 5,
            "final_logit_softcapping": 30.0,
            "vocab_size_per_layer_input": 262144,
            "hidden_size_per_layer_input": 256,
            "num_kv_shared_layers": 15,
            "altup_num_inputs": 4,
            "altup_active_idx": 0,
            "altup_correct_scale": True,
            "laurel_rank": 64,
        },
        aliases={**_GEMMA_ACTIVATION, "sliding_window_pattern": ()},
        norm=LATE_RMS,
        placement="sandwich",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope=RopeRules(scaled_layers_only=layer_rules.FULL, local_theta="rope_local_base_freq", by_layer_type=True),
        layer_extras=shape_rules.gemma3n_layer_extras,
        extras=extra_rules.gemma3n_extras,
        capped_in_wrappers=True,
        supported_values={"altup_active_idx": (0,)},
        own_names=SANDWICH,
    ),
    # Gemma 4: E2B, E4B, 26B-A4B and 31B; "unified" is the 12B model, without per-layer embeddings and experts.
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": replace(
        _GEMMA4,
        defaults={
            **_GEMMA4.defaults,
            "max_position_embeddings": 262144,
            "sliding_window": 1024,
            "hidden_size_per_layer_input": 0,
        },
        aliases={**_GEMMA4.aliases, "hidden_size_per_layer_input": (), "enable_moe_block": ()},
    ),
}
