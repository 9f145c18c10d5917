"""Mixtures of experts: Ernie 4.5, MiniMax-M2, dots.llm1, Hunyuan and Hy3, MiMo-V2, Aria, Grok-1."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules, shape_rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT

_ERNIE = {**BASE, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}
_ERNIE_BIASES = BiasKeys("use_bias", "use_bias", "use_bias")
_HUNYUAN = {**BASE, "rms_norm_eps": 1e-5}

FAMILIES: dict[str, Family] = {
    "ernie4_5": Family(
        {**_ERNIE, "head_dim": 128, "num_key_value_heads": 2},
        rope=RopeRules(float32=True),
        biases=_ERNIE_BIASES,
        paired=True,
    ),
    "ernie4_5_moe": Family(
        {
            **_ERNIE,
            "num_key_value_heads": 4,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1536,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": -1,
            "moe_layer_interval": 1,
        },
        aliases={
            "num_experts": ("num_experts", "moe_num_experts"),
            "num_experts_per_tok": ("num_experts_per_tok", "moe_k"),
        },
        rope=RopeRules(float32=True),
        experts=expert_rules.ernie_experts,
        biases=_ERNIE_BIASES,
        paired=True,
    ),
    # MiniMax-M2, 2.1, 2.5, 2.7.
    "minimax_m2": Family(
        {
            **BASE,
            "rope_theta": 5e6,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "max_position_embeddings": 196608,
        },
        aliases={"num_experts": ("num_local_experts", "num_experts")},
        qk_norm="whole",
        rope=RopeRules(size_key="rotary_dim", partial=True),
        experts=expert_rules.minimax_experts,
    ),
    "dots1": Family(
        {
            **BASE,
            "num_key_value_heads": 32,
            "moe_intermediate_size": 1408,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "sliding_window": 4096,
            "max_window_layers": 62,
        },
        aliases={"num_experts": ("n_routed_experts", "num_local_experts")},
        qk_norm="head",
        layer_types=layer_rules.sliding_from_some_layer,
        lists_layer_types=True,
        experts=expert_rules.deepseek_v3_experts,
    ),
    "hy_v3": Family(
        {
            **BASE,
            "rope_theta": 11158840.0,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "num_experts": 192,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 1536,
            "routed_scaling_factor": 2.826,
            "max_position_embeddings": 131072,
        },
        aliases={
            "num_experts": ("num_experts", "num_local_experts"),
            "n_shared_experts": ("num_shared_experts",),
            "routed_scaling_factor": ("router_scaling_factor",),
        },
        qk_norm="head",
        experts=expert_rules.hy3_experts,
    ),
    "mimo_v2_flash": Family(
        {
            **BASE,
            "rope_theta": 5e6,
            "partial_rotary_factor": 0.334,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "sliding_window": 129,
            "attention_value_scale": 0.707,
            "add_swa_attention_sink_bias": True,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "max_position_embeddings": 131072,
        },
        aliases={
            "num_experts": ("n_routed_experts", "num_local_experts"),
            "rms_norm_eps": ("rms_norm_eps", "layernorm_epsilon"),
            # Published files also state the rotations at top level, where transformers does not read them.
            "rope_theta": (),
            "partial_rotary_factor": (),
        },
        layer_types=layer_rules.mimo_types,
        lists_layer_types=True,
        heads=shape_rules.mimo_heads,
        layer_extras=shape_rules.mimo_layer_extras,
        rope=RopeRules(scaled_layers_only=FULL, local_theta=1e4, by_layer_type=True, partial=True),
        experts=expert_rules.mimo_experts,
        extras=extra_rules.mimo_extras,
    ),
    # Grok-1; Grok-2 adds a dense network to the experts, and scores that depend on the position.
    "grok-1": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "hidden_act": "gelu_new",
            "num_key_value_heads": 8,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "attn_output_multiplier": 0.08838834764831845,
            "embedding_multiplier_scale": 78.38367176906169,
            "output_multiplier_scale": 0.5773502691896257,
            "max_attn_value": 30.0,
            "max_position_embeddings": 8192,
        },
        aliases=EXPERT_COUNT,
        placement="sandwich",
        experts=expert_rules.mixtral_experts,
        extras=extra_rules.grok_extras,
        supported_values={"residual_moe": (False,), "attn_temperature_len": (), "rope_type": ()},
    ),
    "aria_text": Family(
        {**BASE, "num_experts": 8, "num_experts_per_tok": 2, "moe_num_shared_experts": 2},
        aliases={"num_experts": ("moe_num_experts",), "num_experts_per_tok": ("moe_topk",)},
        experts=expert_rules.aria_experts,
        # The experts always use it.
        supported_values={"hidden_act": ("silu",)},
        experts_transposed=True,
    ),
    "hunyuan_v1_dense": Family(_HUNYUAN, qk_norm="rotated_head", rope=RopeRules(fixed_alpha=True)),
    # Hunyuan-A13B.
    "hunyuan_v1_moe": Family(
        {**_HUNYUAN, "num_experts": 1, "num_experts_per_tok": 1},
        aliases={**EXPERT_COUNT, "num_experts_per_tok": ("moe_topk", "num_experts_per_tok")},
        qk_norm="rotated_head",
        rope=RopeRules(fixed_alpha=True),
        experts=expert_rules.hunyuan_experts,
    ),
}
