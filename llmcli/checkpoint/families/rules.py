"""Rules of model families that depend on several keys: layer types, RoPE per layer, experts, scales."""

from __future__ import annotations

from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.rope_keys import original_context, rope_section, yarn_mscale
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import ClampedGLU, ExpertsConfig, LatentConfig, QueryScaling

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


# Layer types if the file does not list them; one name for each of `layers` layers.


def all_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Every layer has full attention."""
    return [FULL] * layers


def all_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Mistral, Phi-3 and others: every layer has a sliding window, if the file states one."""
    return [FULL if keys.optional_integer("sliding_window") is None else SLIDING] * layers


def all_sliding_if_used(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen3-MoE: every layer has a sliding window if `use_sliding_window` is set."""
    return all_sliding(keys, layers) if keys.flag("use_sliding_window") else [FULL] * layers


def upper_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen 2 and 3: sliding window from layer `max_window_layers` on if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window") or keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    first = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index >= first else FULL for index in range(layers)]


def lower_even_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Qwen2-MoE: sliding window in even layers below `max_window_layers` if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window"):
        return [FULL] * layers
    end = keys.integer("max_window_layers", minimum=0)
    return [SLIDING if index % 2 == 0 and index < end else FULL for index in range(layers)]


def even_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Gemma 2 and gpt-oss: sliding window in every other layer, beginning with the first."""
    return [FULL if index % 2 else SLIDING for index in range(layers)]


def mostly_sliding(keys: ConfigKeys, layers: int) -> list[str]:
    """Gemma 3, Olmo 3, Cohere 2, Exaone 4: full attention in every n-th layer, a sliding window in the others."""
    pattern = keys.get("sliding_window_pattern")
    if keys.optional_integer("sliding_window") is None or not pattern:
        return [FULL] * layers
    if isinstance(pattern, str):
        # Exaone 4 writes one letter for each layer of the period: L local, G global.
        if set(pattern) - set("LG"):
            raise UnsupportedModelError(f"{keys.path} has sliding_window_pattern {pattern!r}; L and G are known.")
        return [SLIDING if pattern[index % len(pattern)] == "L" else FULL for index in range(layers)]
    period = keys.integer("sliding_window_pattern")
    return [FULL if (index + 1) % period == 0 else SLIDING for index in range(layers)]


def chunked_where_rotated(keys: ConfigKeys, layers: int) -> list[str]:
    """Llama 4: chunked attention in layers with RoPE, full attention in the others."""
    return [CHUNKED if on else FULL for on in listed_rope(keys, [""] * layers)]


def sliding_where_not_rotated(keys: ConfigKeys, layers: int) -> list[str]:
    """SmolLM3: sliding window in layers without RoPE if `use_sliding_window` is set."""
    if not keys.flag("use_sliding_window") or keys.optional_integer("sliding_window") is None:
        return [FULL] * layers
    return [FULL if on else SLIDING for on in listed_rope(keys, [""] * layers)]


# RoPE: for each layer, given the layer types, whether it has RoPE.


def always_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Every layer has RoPE."""
    return [True] * len(kinds)


def never_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """No layer has RoPE: positions are learned vectors, added to the embeddings."""
    return [False] * len(kinds)


def listed_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """SmolLM3 and Llama 4: `no_rope_layers` is 1 for layers with RoPE; by default every n-th layer has none."""
    listed = keys.integers("no_rope_layers")
    if listed is None:
        interval = keys.integer("no_rope_layer_interval")
        return [(index + 1) % interval != 0 for index in range(len(kinds))]
    if len(listed) != len(kinds):
        raise CheckpointError(f"{keys.path}: no_rope_layers has {len(listed)} values for {len(kinds)} layers.")
    return [bool(value) for value in listed]


def sliding_rope(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Cohere 2: only sliding-window layers have RoPE."""
    return [kind == SLIDING for kind in kinds]


def sliding_rope_if_any(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Exaone 4: only sliding-window layers have RoPE, or all if the model has no window."""
    return [kind == SLIDING or keys.optional_integer("sliding_window") is None for kind in kinds]


def rope_if_named(keys: ConfigKeys, kinds: list[str]) -> list[bool]:
    """Granite hybrids: RoPE only if `position_embedding_type` is "rope"."""
    return [keys.text("position_embedding_type") == "rope"] * len(kinds)


# Experts: for each layer its mixture of experts, or None for a dense feed-forward network.


def mixtral_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Mixtral: every layer; normalized weights."""
    return [_experts(keys, "intermediate_size", normalized=True)] * layers


def olmoe_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """OLMoE: every layer; weights are normalized if `norm_topk_prob` is set."""
    return [_experts(keys, "intermediate_size", normalized=keys.flag("norm_topk_prob"))] * layers


def qwen_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Qwen 2 and 3: every `decoder_sparse_step`-th layer except `mlp_only_layers`; Qwen 2 has a gated shared expert."""
    shared = keys.optional_integer("shared_expert_intermediate_size", minimum=0) or 0
    experts = _experts(
        keys,
        "moe_intermediate_size",
        normalized=keys.flag("norm_topk_prob"),
        shared_size=shared,
        shared_gate=shared > 0,
    )
    dense, step = keys.integers("mlp_only_layers") or [], keys.integer("decoder_sparse_step")
    return [None if index in dense or (index + 1) % step else experts for index in range(layers)]


def granite_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Granite: every layer, if there are experts; softmax over the chosen logits, optionally a shared expert."""
    if not keys.optional_integer("num_experts", minimum=0):
        return [None] * layers
    shared = keys.optional_integer("shared_intermediate_size", minimum=0) or 0
    return [_experts(keys, "intermediate_size", score="softmax_of_chosen", shared_size=shared)] * layers


def gpt_oss_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """gpt-oss: every layer; biases in router and experts, and a clamped GLU."""
    glu = ClampedGLU(keys.number("swiglu_alpha"), keys.positive("swiglu_limit"))
    experts = _experts(keys, "intermediate_size", score="softmax_of_chosen", router_bias=True, bias=True, glu=glu)
    return [experts] * layers


def llama4_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Llama 4: every n-th layer; the routing weight multiplies the expert's input."""
    size = keys.integer("intermediate_size")
    experts = _experts(keys, "intermediate_size", score="sigmoid_of_chosen", scales_input=True, shared_size=size)
    step = keys.integer("interleave_moe_layer_step")
    listed = keys.integers("moe_layers")
    chosen = range(step - 1, layers, step) if listed is None else listed
    return [experts if index in chosen else None for index in range(layers)]


def deepseek_v2_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """DeepSeek-V2: groups are ranked by their best expert; weights are not normalized."""
    method = keys.text("topk_method")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(f"{keys.path} chooses experts by {method!r}, which is not supported.")
    if keys.text("scoring_func") not in (None, "softmax"):
        raise UnsupportedModelError(f"{keys.path} scores experts by {keys.text('scoring_func')!r}; softmax is known.")
    grouped = method == "group_limited_greedy"
    return _deepseek(keys, layers, grouped=grouped, score="softmax", group_score="best")


def deepseek_v3_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """DeepSeek-V3: sigmoid scores, a bias that affects only the choice, groups ranked by their best two experts."""
    if keys.text("scoring_func") not in (None, "sigmoid"):
        raise UnsupportedModelError(f"{keys.path} scores experts by {keys.text('scoring_func')!r}; sigmoid is known.")
    return _deepseek(
        keys,
        layers,
        grouped=True,
        score="sigmoid",
        group_score="best_two",
        selection_bias=True,
        normalized=keys.flag("norm_topk_prob"),
    )


def _deepseek(keys: ConfigKeys, layers: int, *, grouped: bool, **options: Any) -> list[ExpertsConfig | None]:
    if (keys.optional_integer("moe_layer_freq") or 1) != 1:
        raise UnsupportedModelError(f"{keys.path} has moe_layer_freq {keys.get('moe_layer_freq')}; only 1 is known.")
    shared = keys.optional_integer("n_shared_experts", minimum=0) or 0
    experts = _experts(
        keys,
        "moe_intermediate_size",
        scale=keys.number("routed_scaling_factor"),
        groups=(keys.optional_integer("n_group") or 1) if grouped else 1,
        groups_chosen=(keys.optional_integer("topk_group") or 1) if grouped else 1,
        float32_router=True,
        shared_size=shared * keys.integer("moe_intermediate_size"),
        **options,
    )
    first = keys.integer("first_k_dense_replace", minimum=0)
    return [experts if index >= first else None for index in range(layers)]


def _experts(keys: ConfigKeys, size_key: str, **options: Any) -> ExpertsConfig:
    count, chosen = keys.integer("num_experts"), keys.integer("num_experts_per_tok")
    if count > 10_000:
        name = keys.spelled("num_experts")
        raise CheckpointError(f"{keys.path} has {name!r} = {count}, which is more than any model has.")
    experts = ExpertsConfig(count=count, chosen=chosen, intermediate_size=keys.integer(size_key), **options)
    groups, used = experts.groups, experts.groups_chosen
    # A group is ranked by its best one or two experts, so it must have that many.
    smallest = 1 if experts.group_score == "best" else 2
    sound = count % groups == 0 and used <= groups and chosen <= count // groups * used
    if not sound or (used < groups and count // groups < smallest):
        raise CheckpointError(
            f"{keys.path} asks for {chosen} of {count} experts in {used} of {groups} groups, which is impossible."
        )
    return experts


# Further fields of `ModelConfig`.


def no_extras(keys: ConfigKeys) -> dict[str, Any]:
    """No further fields."""
    return {}


def gemma_scales(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma: embeddings are multiplied by the square root of the hidden size."""
    return {"embed_scale": keys.integer("hidden_size") ** 0.5, "embed_scale_rounded": True}


def gemma1_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma 1: "gelu" in its first files means the tanh approximation."""
    return gemma_scales(keys) | ({"activation": "gelu_tanh"} if keys.text("hidden_act") == "gelu" else {})


def gemma2_scales(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma 2: like Gemma 3, and attention scores are capped."""
    return gemma3_scales(keys) | {"attention_softcap": keys.optional_positive("attn_logit_softcapping")}


def gemma3_scales(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma 3: scores are divided by the square root of `query_pre_attn_scalar`; logits may be capped."""
    return gemma_scales(keys) | {
        "attention_scale": keys.positive("query_pre_attn_scalar") ** -0.5,
        "logit_softcap": keys.optional_positive("final_logit_softcapping"),
    }


def granite_scales(keys: ConfigKeys) -> dict[str, Any]:
    """Granite: four factors of maximal update parametrization (Yang et al. 2022, arXiv:2203.03466)."""
    return {
        "embed_scale": keys.number("embedding_multiplier"),
        "attention_scale": keys.number("attention_multiplier"),
        "residual_scale": keys.number("residual_multiplier"),
        "logit_scale": 1 / keys.positive("logits_scaling"),
    }


def granite_hybrid_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Granite hybrids: without experts, the shared expert is the dense feed-forward network."""
    extras = granite_scales(keys)
    if not keys.optional_integer("num_experts", minimum=0):
        extras["intermediate_size"] = keys.integer("shared_intermediate_size")
    return extras


def cohere_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Cohere: a factor on the logits; the larger models have norms of queries and keys."""
    return {"logit_scale": keys.number("logit_scale"), "qk_norm": "each_head" if keys.flag("use_qk_norm") else None}


def stablelm_extras(keys: ConfigKeys) -> dict[str, Any]:
    """StableLM: optional parallel blocks, and optional norms of queries and keys."""
    return {
        "placement": "parallel_shared" if keys.flag("use_parallel_residual") else "pre",
        "qk_norm": "each_head" if keys.flag("qk_layernorm") else None,
    }


def gpt_neox_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GPT-NeoX: optional parallel blocks."""
    return {"placement": "parallel" if keys.flag("use_parallel_residual") else "pre"}


def gpt2_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GPT-2: learned positions; attention scores may be unscaled."""
    return {"learned_positions": True, "attention_scale": None if keys.flag("scale_attn_weights") else 1.0}


def olmo_extras(keys: ConfigKeys) -> dict[str, Any]:
    """OLMo: queries, keys and values may be clamped."""
    return {"qkv_clip": keys.optional_positive("clip_qkv")}


def llama4_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Llama 4: norms of queries and keys after RoPE; dense layers have a size different from the experts'."""
    return {
        "intermediate_size": keys.integer("intermediate_size_mlp"),
        "qk_norm": "rotated" if keys.flag("use_qk_norm") else None,
    }


def deepseek_extras(keys: ConfigKeys) -> dict[str, Any]:
    """DeepSeek: latent attention; with YaRN, scores are multiplied by the square of its temperature."""
    latent = LatentConfig(
        query_rank=keys.optional_integer("q_lora_rank"),
        rank=keys.integer("kv_lora_rank"),
        nope_dim=keys.integer("qk_nope_head_dim"),
        rope_dim=keys.integer("qk_rope_head_dim"),
        value_dim=keys.integer("v_head_dim"),
    )
    rope = rope_section(keys, FULL)
    scale = latent.query_dim**-0.5
    if (rope.text("rope_type") or rope.text("type") or "default") != "default" and rope.get("mscale_all_dim"):
        scale *= yarn_mscale(rope.positive("factor"), rope.positive("mscale_all_dim")) ** 2
    return {
        "latent": latent,
        "head_dim": latent.query_dim,
        "num_kv_heads": keys.integer("num_attention_heads"),
        "attention_scale": scale,
    }


# Query scaling by position: for each layer, given which layers have RoPE.


def no_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """No query scaling."""
    return [None] * len(rope_on)


def ministral_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """Ministral 3: every layer, from the original context length on."""
    rope = rope_section(keys, FULL)
    if rope.get("llama_4_scaling_beta") is None:
        return [None] * len(rope_on)
    interval = original_context(keys, FULL, keys.integer("max_position_embeddings"))
    return [QueryScaling(rope.number("llama_4_scaling_beta"), interval)] * len(rope_on)


def llama4_query_scaling(keys: ConfigKeys, rope_on: list[bool]) -> list[QueryScaling | None]:
    """Llama 4: layers without RoPE."""
    if not keys.get("attn_temperature_tuning"):
        return [None] * len(rope_on)
    scaling = QueryScaling(keys.number("attn_scale"), keys.integer("floor_scale"), offset=1)
    return [None if on else scaling for on in rope_on]
