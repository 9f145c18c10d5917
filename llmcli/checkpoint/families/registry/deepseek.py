"""DeepSeek, and models with its latent attention."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, extra_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE

_DEEPSEEK = {
    **BASE,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "topk_method": "greedy",
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1407,
    "n_shared_experts": 2,
}
_DEEPSEEK_ALIASES = {"num_experts": ("n_routed_experts", "num_local_experts", "num_experts")}
# DeepSeek-V3, R1, Moonlight, Kimi-K2.
_DEEPSEEK_V3 = Family(
    {
        **_DEEPSEEK,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "n_group": 8,
        "topk_group": 4,
        "num_experts": 256,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
    },
    aliases={**_DEEPSEEK_ALIASES, "partial_rotary_factor": ()},
    experts=expert_rules.deepseek_v3_experts,
    extras=extra_rules.deepseek_extras,
    paired=True,
    paired_key="rope_interleave",
)

FAMILIES: dict[str, Family] = {
    "deepseek_v2": Family(
        _DEEPSEEK,
        aliases={**_DEEPSEEK_ALIASES, "partial_rotary_factor": ()},
        rope=RopeRules(float32=True),
        experts=expert_rules.deepseek_v2_experts,
        extras=extra_rules.deepseek_extras,
        paired=True,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
}
