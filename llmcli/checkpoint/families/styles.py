"""Norms, names and defaults that several lineages of models share."""

from __future__ import annotations

from llmcli.model import NormStyle

LATE_RMS = NormStyle(round_first=False)
CENTERED_RMS = NormStyle(plus_one=True, round_first=False)
LAYER_NORM = NormStyle("layer", bias=True)
LAYER_NORM_WITHOUT_BIAS = NormStyle("layer")
POST = {"attention_output_norm": "post_attention_layernorm", "mlp_output_norm": "post_feedforward_layernorm"}
SANDWICH = {**POST, "post_attention_layernorm": "pre_feedforward_layernorm"}
BASE: dict[str, object] = {
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
}
LAYER_EPS = {"rms_norm_eps": ("layer_norm_eps",)}
EXPERT_COUNT = {"num_experts": ("num_experts", "num_local_experts")}
WINDOW_PATTERN = {"sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern")}
GPT2_ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "hidden_size"),
    "num_hidden_layers": ("n_layer", "num_hidden_layers"),
    "num_attention_heads": ("n_head", "num_attention_heads"),
    "num_key_value_heads": (),
    "max_position_embeddings": ("n_positions", "max_position_embeddings"),
    "intermediate_size": ("n_inner",),
    "hidden_act": ("activation_function",),
    "rms_norm_eps": ("layer_norm_epsilon",),
}
MAMBA2: dict[str, object] = {
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
LAYER_NORM_BASE = {**BASE, "rms_norm_eps": 1e-5}
