"""StableLM, StarCoder 2 and Nemotron."""

from __future__ import annotations

from llmcli.checkpoint.families import extra_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import LAYER_EPS, LAYER_NORM, LAYER_NORM_BASE
from llmcli.model import NormStyle

FAMILIES: dict[str, Family] = {
    "stablelm": Family(
        {**LAYER_NORM_BASE, "partial_rotary_factor": 0.25, "max_position_embeddings": 4096},
        aliases={**LAYER_EPS, "partial_rotary_factor": ("partial_rotary_factor", "rope_pct")},
        norm=LAYER_NORM,
        rope=RopeRules(partial=True),
        extras=extra_rules.stablelm_extras,
        biases=BiasKeys("use_qkv_bias"),
    ),
    "starcoder2": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 2, "sliding_window": None}
        | {"max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_epsilon",)},
        norm=LAYER_NORM,
        gated=False,
        biases=BiasKeys("use_bias", "use_bias", "use_bias"),
        layer_types=layer_rules.all_sliding,
    ),
    "nemotron": Family(
        {**LAYER_NORM_BASE, "hidden_act": "relu2", "partial_rotary_factor": 0.5, "max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_eps",)},
        norm=NormStyle("layer", bias=True, plus_one=True),
        gated=False,
        rope=RopeRules(partial=True),
    ),
}
