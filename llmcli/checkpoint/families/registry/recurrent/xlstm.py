"""xLSTM: mLSTM cells in place of attention."""

from __future__ import annotations

from llmcli.checkpoint.families import mixer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import LINEAR
from llmcli.checkpoint.families.styles import BASE

FAMILIES: dict[str, Family] = {
    "xlstm": Family(
        {
            **BASE,
            "num_attention_heads": 8,
            # No positions, so no limit.
            "max_position_embeddings": 1 << 20,
            "qk_dim_factor": 0.5,
            "v_dim_factor": 1.0,
            "gate_soft_cap": 15.0,
            "output_logit_soft_cap": 30.0,
            "eps": 1e-6,
            "ffn_proj_factor": 2.667,
            "ffn_round_up_to_multiple_of": 64,
        },
        aliases={
            **dict.fromkeys(("hidden_act", "num_key_value_heads", "head_dim", "intermediate_size"), ()),
            "hidden_size": ("hidden_size", "embedding_dim"),
            "num_hidden_layers": ("num_blocks", "num_hidden_layers"),
            "num_attention_heads": ("num_heads",),
            "rms_norm_eps": ("norm_eps",),
        },
        kinds=(LINEAR,),
        layer_types=mixer_rules.all_linear,
        layer_extras=mixer_rules.xlstm_layers,
        extras=mixer_rules.xlstm_extras,
        supported_values={"use_bias": (False,)},
        own_names={
            "norm": "out_norm",
            "input_layernorm": "norm_mlstm",
            "post_attention_layernorm": "norm_ffn",
            "mlp.gate_proj": "ffn.proj_up_gate",
            "mlp.up_proj": "ffn.proj_up",
            "mlp.down_proj": "ffn.proj_down",
        },
    ),
}
