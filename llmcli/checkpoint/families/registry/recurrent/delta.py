"""Gated delta nets in most layers, attention in the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from llmcli.checkpoint.families import delta_rules, expert_rules, hybrid_expert_rules, layer_rules, qwen4_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import FULL, LINEAR, SLIDING
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import BASE, CENTERED_RMS, EXPERT_COUNT, LATE_RMS, POST

_Aliases = Mapping[str, tuple[str, ...]]
_NONE: _Aliases = MappingProxyType({})
_DELTA = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
_QWEN = {
    **BASE,
    **_DELTA,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 32768,
}
_QWEN_MOE = {
    **_QWEN,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}


def _qwen(defaults: dict[str, object], *, experts: bool = False, aliases: _Aliases = _NONE) -> Family:
    return Family(
        defaults,
        aliases=aliases,
        norm=CENTERED_RMS,
        qk_norm="head",
        kinds=(FULL, LINEAR),
        layer_types=delta_rules.last_of_interval_full,
        lists_layer_types=True,
        layer_extras=delta_rules.qwen_delta_layers,
        rope=RopeRules(partial=True),
        extras=delta_rules.gated_attention,
        experts=expert_rules.qwen_experts if experts else None,
        gate_in_queries=True,
        supported_values={"attention_bias": (False,)},
    )


FAMILIES: dict[str, Family] = {
    # Qwen3.5, 3.6 and 3.8.
    "qwen3_5_text": _qwen({**_QWEN, "intermediate_size": 12288}),
    # The weights of its experts are always divided by their sum.
    "qwen3_5_moe_text": _qwen(
        _QWEN_MOE,
        experts=True,
        aliases={**EXPERT_COUNT, "norm_topk_prob": (), "decoder_sparse_step": (), "mlp_only_layers": ()},
    ),
    "qwen3_next": _qwen(
        {**_QWEN_MOE, "intermediate_size": 5632, "num_experts": 512, "num_experts_per_tok": 10},
        experts=True,
        aliases=EXPERT_COUNT,
    ),
    # Qwen3.8-Flash-Next.
    "qwen4_exp_text": replace(
        _qwen(
            {
                **_QWEN_MOE,
                "partial_rotary_factor": None,
                "num_experts": 512,
                "num_experts_per_tok": 10,
                "hc_count": 4,
                "hc_lowrank": 320,
                "ple_conv_kernel_size": 4,
                "ngram_size": 3,
                "heads_per_ngram": 8,
                "ngram_vocab_size_base": 20_000_000,
                "make_ngram_vocab_size_divisible_by": 128,
                "seed": 1234,
            },
            experts=True,
            aliases={**EXPERT_COUNT, "decoder_sparse_step": (), "mlp_only_layers": ()},
        ),
        layer_extras=qwen4_rules.qwen4_layers,
        extras=qwen4_rules.qwen4_extras,
        supported_values={
            "attention_bias": (False,),
            "hidden_act": ("silu",),
            "output_gate_type": ("silu", "sigmoid"),
        },
    ),
    "lara_mini": Family(
        {
            **_QWEN_MOE,
            "head_dim": 128,
            "partial_rotary_factor": None,
            "num_key_value_heads": 4,
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 16,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "sliding_window": 512,
            "max_position_embeddings": 131072,
        },
        aliases={**EXPERT_COUNT, "decoder_sparse_step": (), "mlp_only_layers": ()},
        norm=LATE_RMS,
        qk_norm="head",
        kinds=(FULL, SLIDING, LINEAR),
        layer_types=delta_rules.lara_types,
        lists_layer_types=True,
        layer_extras=delta_rules.lara_delta_layers,
        rope_on=layer_rules.sliding_rope,
        experts=hybrid_expert_rules.lara_experts,
    ),
    "olmo_hybrid": Family(
        {
            **BASE,
            "max_position_embeddings": 65536,
            "linear_conv_kernel_dim": 4,
            "linear_allow_neg_eigval": True,
        },
        norm=LATE_RMS,
        qk_norm="whole",
        kinds=(FULL, LINEAR),
        layer_types=delta_rules.fourth_or_last_full,
        lists_layer_types=True,
        layer_extras=delta_rules.olmo_delta_layers,
        rope_on=delta_rules.rope_if_stated,
        rope=RopeRules(float32=True),
        own_names=POST,
    ),
}
