"""Mistral."""

from __future__ import annotations

from llmcli.checkpoint.families import expert_rules, layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.styles import BASE, EXPERT_COUNT

_MISTRAL = {**BASE, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}

FAMILIES: dict[str, Family] = {
    # Mistral 7B, Nemo, Small.
    "mistral": Family(_MISTRAL, layer_types=layer_rules.all_sliding, lists_layer_types=True),
    "ministral": Family(_MISTRAL, layer_types=layer_rules.all_sliding, lists_layer_types=True),
    "ministral3": Family(
        {
            **BASE,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 16384,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        layer_types=layer_rules.all_sliding,
        query_scaling=layer_rules.ministral_query_scaling,
    ),
    "mixtral": Family(
        {**_MISTRAL, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "sliding_window": None, "num_experts": 8}
        | {"num_experts_per_tok": 2},
        aliases=EXPERT_COUNT,
        layer_types=layer_rules.all_sliding,
        experts=expert_rules.mixtral_experts,
    ),
}
