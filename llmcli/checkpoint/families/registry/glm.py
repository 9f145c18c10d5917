"""GLM."""

from __future__ import annotations

from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE

FAMILIES: dict[str, Family] = {
    "glm4": Family(
        {**BASE, "rms_norm_eps": 1.5625e-07, "head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}
        | {"max_position_embeddings": 131072},
        placement="sandwich",
        rope=RopeRules(partial=True),
        norm_names={"attention_output_norm": "post_self_attn_layernorm", "mlp_output_norm": "post_mlp_layernorm"},
        paired=True,
    ),
}
