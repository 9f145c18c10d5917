"""Mamba and Mamba-2, models without attention and without feed-forward networks."""

from __future__ import annotations

from llmcli.checkpoint.families import mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import LINEAR
from llmcli.checkpoint.families.styles import BASE

_SILU: dict[str, tuple[object, ...]] = {"hidden_act": ("silu",)}
_NAMES = {"input_layernorm": "norm"}
# Keys of other meanings, or of parts that these models lack.
_UNUSED: dict[str, tuple[str, ...]] = dict.fromkeys(("head_dim", "num_attention_heads", "num_key_value_heads"), ())
_NO_ATTENTION = {
    **BASE,
    "rms_norm_eps": 1e-5,
    "num_attention_heads": 1,
    # No positions, so no limit: what llama.cpp states for them.
    "max_position_embeddings": 1 << 20,
    "use_conv_bias": True,
    "use_bias": False,
}
_MAMBA = {
    **_NO_ATTENTION,
    "mamba_expand": 2,
    "mamba_d_state": 16,
    "mamba_dt_rank": "auto",
    "mamba_d_conv": 4,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
_MAMBA_ALIASES = {
    **_UNUSED,
    "rms_norm_eps": ("layer_norm_epsilon",),
    "intermediate_size": (),
    "mamba_width": ("intermediate_size",),
    "mamba_expand": ("expand",),
    "mamba_d_state": ("state_size",),
    "mamba_dt_rank": ("time_step_rank",),
    "mamba_d_conv": ("conv_kernel",),
    "mamba_conv_bias": ("use_conv_bias",),
    "mamba_proj_bias": ("use_bias",),
}

FAMILIES: dict[str, Family] = {
    "mamba": Family(
        _MAMBA,
        aliases=_MAMBA_ALIASES,
        kinds=(LINEAR,),
        layer_types=mixer_rules.all_linear,
        layer_extras=mixer_rules.mamba_layers,
        supported_values=_SILU,
        own_names=_NAMES,
    ),
    "falcon_mamba": Family(
        {**_MAMBA, "mixer_rms_eps": 1e-6},
        aliases=_MAMBA_ALIASES,
        kinds=(LINEAR,),
        layer_types=mixer_rules.all_linear,
        layer_extras=mixer_rules.falcon_mamba_layers,
        supported_values=_SILU,
        own_names=_NAMES,
    ),
    # Codestral Mamba.
    "mamba2": Family(
        {**_NO_ATTENTION, "num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "state_size": 128, "conv_kernel": 4},
        aliases={
            **_UNUSED,
            "rms_norm_eps": ("layer_norm_epsilon",),
            "intermediate_size": (),
            "mamba_head_dim": ("head_dim",),
        },
        kinds=(LINEAR,),
        layer_types=mixer_rules.all_linear,
        layer_extras=mixer_rules.mamba2_layers,
        supported_values=_SILU,
        own_names=_NAMES,
    ),
}
