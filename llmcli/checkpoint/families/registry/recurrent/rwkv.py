"""RWKV-4: time mixing in place of attention, channel mixing in place of feed-forward networks."""

from __future__ import annotations

from llmcli.checkpoint.families import mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import LINEAR
from llmcli.checkpoint.families.styles import LAYER_NORM, LAYER_NORM_BASE

FAMILIES: dict[str, Family] = {
    "rwkv": Family(
        # Its files have no heads; its activation is fixed.
        {**LAYER_NORM_BASE, "hidden_act": "relu2", "num_attention_heads": 1, "max_position_embeddings": 1024},
        aliases={
            **dict.fromkeys(("hidden_act", "num_attention_heads", "num_key_value_heads", "head_dim"), ()),
            "rms_norm_eps": ("layer_norm_epsilon",),
            "max_position_embeddings": ("context_length", "max_position_embeddings"),
        },
        norm=LAYER_NORM,
        gated=False,
        kinds=(LINEAR,),
        layer_types=mixer_rules.all_linear,
        layer_extras=mixer_rules.rwkv_layers,
        extras=mixer_rules.rwkv_extras,
        # transformers uses another number for all norms but the last.
        supported_values={"layer_norm_epsilon": (1e-5,)},
        own_names={
            "embed_norm": "blocks.0.pre_ln",
            "norm": "ln_out",
            "input_layernorm": "ln1",
            "post_attention_layernorm": "ln2",
            "mlp.up_proj": "feed_forward.key",
            "mlp.down_proj": "feed_forward.value",
            "mlp.receptance": "feed_forward.receptance",
        },
    ),
}
