"""OpenAI's models, and GPT-NeoX."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import ALWAYS, BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import (
    BASE,
    EXPERT_COUNT,
    GPT2_ALIASES,
    LATE_RMS,
    LAYER_EPS,
    LAYER_NORM,
    LAYER_NORM_BASE,
)

FAMILIES: dict[str, Family] = {
    # GPT-1.
    "openai-gpt": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "max_position_embeddings": 512},
        aliases={**GPT2_ALIASES, "intermediate_size": (), "hidden_act": ("afn",)},
        norm=LAYER_NORM,
        placement="sum",
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.gpt1_extras,
        biases=ALWAYS,
        own_names={"attention_output_norm": "ln_1", "mlp_output_norm": "ln_2"},
        matrices_transposed=True,
    ),
    "gpt2": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_new", "scale_attn_weights": True, "max_position_embeddings": 1024},
        aliases=GPT2_ALIASES,
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.gpt2_extras,
        biases=ALWAYS,
        supported_values={"add_cross_attention": (False,), "scale_attn_by_inverse_layer_idx": (False,)},
        matrices_transposed=True,
    ),
    "gpt_neox": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "partial_rotary_factor": 0.25, "use_parallel_residual": True},
        aliases={
            **LAYER_EPS,
            "num_key_value_heads": (),
            "rope_theta": ("rotary_emb_base",),
            "partial_rotary_factor": ("rotary_pct",),
        },
        norm=LAYER_NORM,
        gated=False,
        rope=RopeRules(partial=True),
        extras=extra_rules.gpt_neox_extras,
        biases=BiasKeys(mlp=None),
        qkv_order="by_head",
    ),
    "gpt_oss": Family(
        {
            **BASE,
            "rope_theta": 1.5e5,
            "rms_norm_eps": 1e-5,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "sliding_window": 128,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "truncate": False,
            },
        },
        aliases=EXPERT_COUNT,
        norm=LATE_RMS,
        sinks=True,
        layer_types=layer_rules.even_sliding,
        lists_layer_types=True,
        experts=expert_rules.gpt_oss_experts,
        experts_transposed=True,
        gate_up_alternating=True,
    ),
}
