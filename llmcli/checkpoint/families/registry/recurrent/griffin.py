"""RecurrentGemma: Griffin's recurrent unit, and attention with a window in every third layer."""

from __future__ import annotations

from llmcli.checkpoint.families import extra_rules, mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import LINEAR, SLIDING
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, CENTERED_RMS

FAMILIES: dict[str, Family] = {
    "recurrent_gemma": Family(
        {
            **BASE,
            "hidden_act": "gelu_pytorch_tanh",
            "sliding_window": 2048,
            "max_position_embeddings": 8192,
            "partial_rotary_factor": 0.5,
            "block_types": ["recurrent", "recurrent", "attention"],
            "conv1d_width": 4,
            "logits_soft_cap": 30.0,
        },
        aliases={
            "hidden_act": ("hidden_activation",),
            "sliding_window": ("attention_window_size",),
            "head_dim": (),
        },
        norm=CENTERED_RMS,
        kinds=(SLIDING, LINEAR),
        layer_types=mixer_rules.griffin_types,
        layer_extras=mixer_rules.griffin_layers,
        rope=RopeRules(partial=True),
        extras=extra_rules.recurrent_gemma_extras,
        own_names={
            "norm": "final_norm",
            "input_layernorm": "temporal_pre_norm",
            "post_attention_layernorm": "channel_pre_norm",
            **{f"self_attn.{part}_proj": f"temporal_block.{part}_proj" for part in "qkvo"},
            **{f"mlp.{part}_proj": f"mlp_block.{part}_proj" for part in ("gate", "up", "down")},
        },
    ),
}
