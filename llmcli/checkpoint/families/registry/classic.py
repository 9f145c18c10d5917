"""Models of 2020 to 2023: GPT-J, GPT-Neo, OPT, BLOOM, Falcon, MPT and others; and DBRX, of MPT's makers."""

from __future__ import annotations

from dataclasses import replace

from llmcli.checkpoint.families import expert_rules, extra_rules, layer_rules
from llmcli.checkpoint.families.bias_keys import ALWAYS, BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.checkpoint.families.styles import (
    BASE,
    GPT2_ALIASES,
    LAYER_EPS,
    LAYER_NORM,
    LAYER_NORM_BASE,
    LAYER_NORM_WITHOUT_BIAS,
)

_GPTJ = Family(
    {**LAYER_NORM_BASE, "hidden_act": "gelu_new", "rotary_dim": 64},
    # The base of the rotations is fixed.
    aliases={**GPT2_ALIASES, "rope_theta": (), "rope_scaling": (), "rope_parameters": ()},
    norm=LAYER_NORM,
    placement="parallel_shared",
    gated=False,
    rope=RopeRules(size_key="rotary_dim", float32=True),
    biases=ALWAYS,
    paired=True,
)
_OPT_VALUES: dict[str, tuple[object, ...]] = {
    # Only OPT-350m normalizes the sums of the residual stream.
    "do_layer_norm_before": (True,),
    "_remove_final_layer_norm": (False,),
    "enable_bias": (True,),
    "layer_norm_elementwise_affine": (True,),
}

FAMILIES: dict[str, Family] = {
    "gptj": _GPTJ,
    # CodeGen 1, 2 and 2.5.
    "codegen": replace(_GPTJ, qkv_order="by_quarter"),
    # GPT-Neo, TinyStories.
    "gpt_neo": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_new", "sliding_window": 256},
        aliases={
            "num_hidden_layers": ("num_layers", "num_hidden_layers"),
            "num_attention_heads": ("num_heads", "num_attention_heads"),
            "num_key_value_heads": (),
            "hidden_act": ("activation_function",),
            "rms_norm_eps": ("layer_norm_epsilon",),
            "sliding_window": ("window_size",),
            "layer_types": (),
        },
        norm=LAYER_NORM,
        gated=False,
        layer_types=layer_rules.gpt_neo_types,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.gpt_neo_extras,
        biases=ALWAYS,
    ),
    # SantaCoder, StarCoder 1.
    "gpt_bigcode": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 1024}
        | {"scale_attn_weights": True, "multi_query": True},
        aliases=GPT2_ALIASES,
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.gpt_bigcode_extras,
        biases=ALWAYS,
        supported_values={"add_cross_attention": (False,)},
        qkv_order="by_head",
    ),
    "gpt_neox_japanese": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "intermediate_multiple_size": 4},
        aliases={
            **LAYER_EPS,
            "num_key_value_heads": (),
            "rope_theta": ("rotary_emb_base",),
            "partial_rotary_factor": ("rotary_pct",),
        },
        norm=LAYER_NORM,
        gated=False,
        rope=RopeRules(partial=True),
        extras=extra_rules.gpt_neox_japanese_extras,
        biases=ALWAYS,
        qkv_order="by_head",
        own_names={"self_attn.o_proj": "attention.dense"},
        last_output_bias="attention.dense_bias",
    ),
    # OPT, without the sizes whose embeddings are projected.
    "opt": Family(
        {**LAYER_NORM_BASE, "hidden_act": "relu"},
        aliases={
            "num_key_value_heads": (),
            "intermediate_size": ("ffn_dim",),
            "hidden_act": ("activation_function",),
            "rms_norm_eps": (),
        },
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.opt_extras,
        biases=ALWAYS,
        supported_values=_OPT_VALUES,
        first_position=2,
    ),
    "biogpt": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "max_position_embeddings": 1024} | {"scale_embedding": True},
        aliases={"num_key_value_heads": (), "rms_norm_eps": ()},
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.biogpt_extras,
        biases=ALWAYS,
        first_position=2,
    ),
    "xglm": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "scale_embedding": True},
        aliases={
            "hidden_size": ("d_model", "hidden_size"),
            "num_hidden_layers": ("num_layers", "num_hidden_layers"),
            "num_attention_heads": ("attention_heads", "num_attention_heads"),
            "num_key_value_heads": (),
            "intermediate_size": ("ffn_dim",),
            "hidden_act": ("activation_function",),
            "rms_norm_eps": (),
        },
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.biogpt_extras,
        biases=ALWAYS,
        supported_values={"add_cross_attention": (False,)},
        first_position=2,
        sinusoids=True,
    ),
    "persimmon": Family(
        {**LAYER_NORM_BASE, "hidden_act": "relu2", "partial_rotary_factor": 0.5, "max_position_embeddings": 16384}
        | {"qk_layernorm": True},
        aliases={**LAYER_EPS, "num_key_value_heads": ()},
        norm=LAYER_NORM,
        gated=False,
        rope=RopeRules(partial=True),
        extras=extra_rules.persimmon_extras,
        biases=ALWAYS,
        qkv_order="by_head",
    ),
    "falcon": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "multi_query": True, "parallel_attn": True},
        aliases={
            "hidden_size": ("n_embed", "hidden_size"),
            "num_hidden_layers": ("num_hidden_layers", "n_layer"),
            "num_attention_heads": ("num_attention_heads", "n_head"),
            "num_key_value_heads": (),
            "intermediate_size": ("ffn_hidden_size",),
            "hidden_act": ("activation",),
            "rms_norm_eps": ("layer_norm_epsilon",),
        },
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.rope_without_alibi,
        extras=extra_rules.falcon_extras,
        biases=BiasKeys("bias", "bias", "bias"),
        qkv_order="by_head",
    ),
    "bloom": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu_new"},
        aliases={
            "hidden_size": ("n_embed", "hidden_size"),
            "num_hidden_layers": ("n_layer", "num_hidden_layers"),
            "num_attention_heads": ("n_head", "num_attention_heads"),
            "num_key_value_heads": (),
            "intermediate_size": (),
            "hidden_act": (),
            "rms_norm_eps": ("layer_norm_epsilon",),
        },
        norm=LAYER_NORM,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.bloom_extras,
        biases=ALWAYS,
        supported_values={"apply_residual_connection_post_layernorm": (False,)},
        qkv_order="by_head",
    ),
    "mpt": Family(
        {**LAYER_NORM_BASE, "hidden_act": "gelu", "expansion_ratio": 4, "alibi": True, "alibi_bias_max": 8},
        aliases={
            "hidden_size": ("d_model", "hidden_size"),
            "num_hidden_layers": ("n_layers", "num_hidden_layers"),
            "num_attention_heads": ("n_heads", "num_attention_heads"),
            "num_key_value_heads": (),
            "max_position_embeddings": ("max_seq_len",),
            "intermediate_size": (),
            "rms_norm_eps": ("layer_norm_epsilon",),
        },
        norm=LAYER_NORM_WITHOUT_BIAS,
        gated=False,
        rope_on=layer_rules.never_rope,
        extras=extra_rules.mpt_extras,
        sections=("attn_config",),
        supported_values={"attn_type": ("multihead_attention",), "prefix_lm": (False,), "qk_ln": (False,)}
        # MPT's own code applies another bias, a factor on the logits and biases; transformers ignores these keys.
        | {"alibi_bias_max": (8,), "logit_scale": (), "no_bias": (True,), "alibi": (True,)},
    ),
    "dbrx": Family(
        {**BASE, "rms_norm_eps": 1e-5, "num_experts": 4, "num_experts_per_tok": 1, "intermediate_size": 3584}
        | {"num_key_value_heads": 1, "moe_normalize_expert_weights": 1.0},
        aliases={
            "hidden_size": ("d_model", "hidden_size"),
            "num_hidden_layers": ("n_layers", "num_hidden_layers"),
            "num_attention_heads": ("n_heads", "num_attention_heads"),
            "num_key_value_heads": ("kv_n_heads",),
            "max_position_embeddings": ("max_seq_len", "max_position_embeddings"),
            "intermediate_size": ("ffn_hidden_size",),
            "num_experts": ("moe_num_experts",),
            "num_experts_per_tok": ("moe_top_k",),
            "rms_norm_eps": (),
        },
        norm=LAYER_NORM_WITHOUT_BIAS,
        experts=expert_rules.dbrx_experts,
        extras=extra_rules.olmo_extras,
        sections=("attn_config", "ffn_config"),
        supported_values={"ffn_act_fn": ({"name": "silu"},), "moe_normalize_expert_weights": (1, None)},
    ),
}
