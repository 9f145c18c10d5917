"""Model families of Hugging Face checkpoints, as data: one entry for each `model_type`.

An entry holds the values that the family's `config.json` leaves out, and how the family differs from Llama.
Defaults are those of transformers 5.24's configuration classes.
"""

from __future__ import annotations

from llmcli.checkpoint.families import rules
from llmcli.checkpoint.families.bias_keys import ALWAYS, BiasKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.model import NormStyle

_LATE_RMS = NormStyle(round_first=False)
_CENTERED_RMS = NormStyle(plus_one=True, round_first=False)
_LAYER_NORM = NormStyle("layer", bias=True)
_LAYER_NORM_WITHOUT_BIAS = NormStyle("layer")

_POST = {"attention_output_norm": "post_attention_layernorm", "mlp_output_norm": "post_feedforward_layernorm"}
_SANDWICH = {**_POST, "post_attention_layernorm": "pre_feedforward_layernorm"}

_BASE: dict[str, object] = {
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
}
_LAYER_EPS = {"rms_norm_eps": ("layer_norm_eps",)}
_EXPERT_COUNT = {"num_experts": ("num_experts", "num_local_experts")}
_WINDOW_PATTERN = {"sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern")}
_GEMMA_ACTIVATION = {"hidden_act": ("hidden_activation",)}

_MISTRAL = {**_BASE, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
_QWEN = {**_BASE, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_MOE = {
    **_QWEN,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
}
_GEMMA = {**_BASE, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA3 = {
    **_GEMMA,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131072,
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
_GRANITE = {
    **_BASE,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "num_experts_per_tok": 2,
}
_LAYER_NORM_BASE = {**_BASE, "rms_norm_eps": 1e-5}
_COHERE = {**_LAYER_NORM_BASE, "logit_scale": 0.0625, "max_position_embeddings": 8192}
_DEEPSEEK = {
    **_BASE,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "topk_method": "greedy",
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1407,
    "n_shared_experts": 2,
}
_DEEPSEEK_ALIASES = {"num_experts": ("n_routed_experts", "num_local_experts", "num_experts")}

# DeepSeek-V3, R1, Moonlight, Kimi-K2.
_DEEPSEEK_V3 = Family(
    {
        **_DEEPSEEK,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "n_group": 8,
        "topk_group": 4,
        "num_experts": 256,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
    },
    aliases={**_DEEPSEEK_ALIASES, "partial_rotary_factor": ()},
    experts=rules.deepseek_v3_experts,
    extras=rules.deepseek_extras,
    paired=True,
    paired_key="rope_interleave",
)

FAMILIES: dict[str, Family] = {
    # Llama 1, 2, 3, 3.1, 3.2, and models published in its format: SmolLM and SmolLM2, Yi, TinyLlama, DeepSeek-LLM.
    "llama": Family(_BASE),
    "llama4_text": Family(
        {
            **_BASE,
            "rope_theta": 5e5,
            "rms_norm_eps": 1e-5,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "attention_chunk_size": 8192,
            "no_rope_layer_interval": 4,
            "use_qk_norm": True,
            "attn_temperature_tuning": True,
            "attn_scale": 0.1,
            "floor_scale": 8192,
            "num_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
        },
        aliases=_EXPERT_COUNT,
        layer_types=rules.chunked_where_rotated,
        lists_layer_types=True,
        rope_on=rules.listed_rope,
        rope=RopeRules(float32=True),
        query_scaling=rules.llama4_query_scaling,
        experts=rules.llama4_experts,
        extras=rules.llama4_extras,
        paired=True,
        experts_transposed=True,
    ),
    # Mistral 7B, Nemo, Small.
    "mistral": Family(_MISTRAL, layer_types=rules.all_sliding, lists_layer_types=True),
    "ministral": Family(_MISTRAL, layer_types=rules.all_sliding, lists_layer_types=True),
    "ministral3": Family(
        {
            **_BASE,
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
        layer_types=rules.all_sliding,
        query_scaling=rules.ministral_query_scaling,
    ),
    "mixtral": Family(
        {**_MISTRAL, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "sliding_window": None, "num_experts": 8}
        | {"num_experts_per_tok": 2},
        aliases=_EXPERT_COUNT,
        layer_types=rules.all_sliding,
        experts=rules.mixtral_experts,
    ),
    # Qwen 1.5, 2, 2.5.
    "qwen2": Family(_QWEN, layer_types=rules.upper_sliding, lists_layer_types=True, biases=ALWAYS),
    "qwen2_moe": Family(
        {
            **_QWEN_MOE,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        aliases=_EXPERT_COUNT,
        layer_types=rules.lower_even_sliding,
        lists_layer_types=True,
        biases=BiasKeys("qkv_bias"),
        experts=rules.qwen_experts,
    ),
    "qwen3": Family(
        {**_QWEN, "head_dim": 128}, layer_types=rules.upper_sliding, lists_layer_types=True, qk_norm="head"
    ),
    "qwen3_moe": Family(
        {**_QWEN_MOE, "num_key_value_heads": 4},
        aliases=_EXPERT_COUNT,
        layer_types=rules.all_sliding_if_used,
        qk_norm="head",
        experts=rules.qwen_experts,
    ),
    "gemma": Family({**_GEMMA, "num_key_value_heads": 16}, norm=_CENTERED_RMS, extras=rules.gemma1_extras),
    "gemma2": Family(
        {
            **_GEMMA,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        aliases=_GEMMA_ACTIVATION,
        norm=_CENTERED_RMS,
        placement="sandwich",
        layer_types=rules.even_sliding,
        lists_layer_types=True,
        extras=rules.gemma2_scales,
        norm_names=_SANDWICH,
    ),
    "gemma3_text": Family(
        _GEMMA3,
        aliases={**_GEMMA_ACTIVATION, **_WINDOW_PATTERN},
        norm=_CENTERED_RMS,
        placement="sandwich",
        qk_norm="head",
        layer_types=rules.mostly_sliding,
        lists_layer_types=True,
        rope=RopeRules(scaled_layers_only=rules.FULL, local_theta="rope_local_base_freq", by_layer_type=True),
        extras=rules.gemma3_scales,
        norm_names=_SANDWICH,
    ),
    "phi": Family(
        {**_LAYER_NORM_BASE, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
        aliases=_LAYER_EPS,
        norm=_LAYER_NORM,
        placement="parallel_shared",
        gated=False,
        rope=RopeRules(partial=True),
        biases=ALWAYS,
        # Norms of queries and keys; no published model has them.
        supported_values={"qk_layernorm": (False,)},
    ),
    # Phi-3, 3.5, 4, 4-mini.
    "phi3": Family(
        {**_BASE, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "sliding_window": None}
        | {"original_max_position_embeddings": 4096},
        layer_types=rules.all_sliding,
        rope=RopeRules(old_names=(("su", "longrope"), ("yarn", "longrope")), partial=True),
    ),
    "smollm3": Family(
        {**_BASE, "rope_theta": 2e6, "num_key_value_heads": 4, "no_rope_layer_interval": 4}
        | {"max_position_embeddings": 32768},
        layer_types=rules.sliding_where_not_rotated,
        lists_layer_types=True,
        rope_on=rules.listed_rope,
    ),
    "olmo": Family(
        {**_BASE, "rms_norm_eps": 1e-5},
        aliases={"rms_norm_eps": ()},
        norm=NormStyle("layer", weight=False),
        extras=rules.olmo_extras,
        rope=RopeRules(float32=True),
    ),
    "olmo2": Family(
        {**_BASE, "rms_norm_eps": 1e-5},
        norm=_LATE_RMS,
        placement="post",
        qk_norm="whole",
        rope=RopeRules(float32=True),
        norm_names=_POST,
    ),
    "olmo3": Family(
        {**_BASE, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        norm=_LATE_RMS,
        placement="post",
        qk_norm="whole",
        layer_types=rules.mostly_sliding,
        lists_layer_types=True,
        rope=RopeRules(scaled_layers_only=rules.FULL, local_theta=5e5, by_layer_type=True, float32=True),
        norm_names=_POST,
    ),
    "olmoe": Family(
        {**_BASE, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_experts": 64, "num_experts_per_tok": 8},
        aliases=_EXPERT_COUNT,
        qk_norm="whole",
        experts=rules.olmoe_experts,
        extras=rules.olmo_extras,
        # Only one of transformers' attention implementations applies the window.
        supported_values={"sliding_window": ()},
    ),
    "granite": Family(_GRANITE, extras=rules.granite_scales),
    "granitemoe": Family(
        {**_GRANITE, "num_experts": 8},
        aliases={**_EXPERT_COUNT, "shared_intermediate_size": ()},
        experts=rules.granite_experts,
        extras=rules.granite_scales,
    ),
    "granitemoeshared": Family(
        {**_GRANITE, "num_experts": 8, "shared_intermediate_size": 0},
        aliases=_EXPERT_COUNT,
        experts=rules.granite_experts,
        extras=rules.granite_scales,
    ),
    # Only models without recurrent layers; see `refused_models`.
    "granitemoehybrid": Family(
        {**_GRANITE, "num_experts": 8, "shared_intermediate_size": 1024},
        aliases={**_EXPERT_COUNT, "layer_types": ("layer_types", "layers_block_type")},
        lists_layer_types=True,
        rope_on=rules.rope_if_named,
        experts=rules.granite_experts,
        extras=rules.granite_hybrid_extras,
    ),
    "stablelm": Family(
        {**_LAYER_NORM_BASE, "partial_rotary_factor": 0.25, "max_position_embeddings": 4096},
        aliases={**_LAYER_EPS, "partial_rotary_factor": ("partial_rotary_factor", "rope_pct")},
        norm=_LAYER_NORM,
        rope=RopeRules(partial=True),
        extras=rules.stablelm_extras,
        biases=BiasKeys("use_qkv_bias"),
    ),
    "cohere": Family(
        {**_COHERE, "rope_theta": 5e5},
        aliases=_LAYER_EPS,
        norm=_LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        rope=RopeRules(float32=True),
        extras=rules.cohere_extras,
        paired=True,
    ),
    "cohere2": Family(
        {**_COHERE, "sliding_window": 4096, "sliding_window_pattern": 4},
        aliases={**_LAYER_EPS, **_WINDOW_PATTERN},
        norm=_LAYER_NORM_WITHOUT_BIAS,
        placement="parallel_shared",
        layer_types=rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=rules.sliding_rope,
        rope=RopeRules(float32=True),
        extras=rules.cohere_extras,
        paired=True,
    ),
    "gpt2": Family(
        {**_LAYER_NORM_BASE, "hidden_act": "gelu_new", "scale_attn_weights": True, "max_position_embeddings": 1024},
        aliases={
            "hidden_size": ("n_embd", "hidden_size"),
            "num_hidden_layers": ("n_layer", "num_hidden_layers"),
            "num_attention_heads": ("n_head", "num_attention_heads"),
            "num_key_value_heads": (),
            "max_position_embeddings": ("n_positions", "max_position_embeddings"),
            "intermediate_size": ("n_inner",),
            "hidden_act": ("activation_function",),
            "rms_norm_eps": ("layer_norm_epsilon",),
        },
        norm=_LAYER_NORM,
        gated=False,
        rope_on=rules.never_rope,
        extras=rules.gpt2_extras,
        biases=ALWAYS,
        supported_values={"add_cross_attention": (False,), "scale_attn_by_inverse_layer_idx": (False,)},
        matrices_transposed=True,
    ),
    "gpt_neox": Family(
        {**_LAYER_NORM_BASE, "hidden_act": "gelu", "partial_rotary_factor": 0.25, "use_parallel_residual": True},
        aliases={
            **_LAYER_EPS,
            "num_key_value_heads": (),
            "rope_theta": ("rotary_emb_base",),
            "partial_rotary_factor": ("rotary_pct",),
        },
        norm=_LAYER_NORM,
        gated=False,
        rope=RopeRules(partial=True),
        extras=rules.gpt_neox_extras,
        biases=BiasKeys(mlp=None),
        qkv_by_head=True,
    ),
    "starcoder2": Family(
        {**_LAYER_NORM_BASE, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 2, "sliding_window": None}
        | {"max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_epsilon",)},
        norm=_LAYER_NORM,
        gated=False,
        biases=BiasKeys("use_bias", "use_bias", "use_bias"),
        layer_types=rules.all_sliding,
    ),
    "nemotron": Family(
        {**_LAYER_NORM_BASE, "hidden_act": "relu2", "partial_rotary_factor": 0.5, "max_position_embeddings": 4096},
        aliases={"rms_norm_eps": ("norm_eps",)},
        norm=NormStyle("layer", bias=True, plus_one=True),
        gated=False,
        rope=RopeRules(partial=True),
    ),
    "arcee": Family(
        {**_BASE, "rms_norm_eps": 1e-5, "hidden_act": "relu2", "max_position_embeddings": 4096}, gated=False
    ),
    "glm4": Family(
        {**_BASE, "rms_norm_eps": 1.5625e-07, "head_dim": 128, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}
        | {"max_position_embeddings": 131072},
        placement="sandwich",
        rope=RopeRules(partial=True),
        norm_names={"attention_output_norm": "post_self_attn_layernorm", "mlp_output_norm": "post_mlp_layernorm"},
        paired=True,
    ),
    "exaone4": Family(
        {**_BASE, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        placement="post",
        qk_norm="head",
        layer_types=rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=rules.sliding_rope_if_any,
        norm_names=_POST,
    ),
    "deepseek_v2": Family(
        _DEEPSEEK,
        aliases={**_DEEPSEEK_ALIASES, "partial_rotary_factor": ()},
        rope=RopeRules(float32=True),
        experts=rules.deepseek_v2_experts,
        extras=rules.deepseek_extras,
        paired=True,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
    "gpt_oss": Family(
        {
            **_BASE,
            "rope_theta": 1.5e5,
            "rms_norm_eps": 1e-5,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "sliding_window": 128,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "truncate": False,
            },
        },
        aliases=_EXPERT_COUNT,
        norm=_LATE_RMS,
        sinks=True,
        layer_types=rules.even_sliding,
        lists_layer_types=True,
        experts=rules.gpt_oss_experts,
        experts_transposed=True,
        gate_up_alternating=True,
    ),
}
