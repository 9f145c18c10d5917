"""Rules of model families for further fields of `ModelConfig`: scales, norms of heads, latent attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.checkpoint.families.rope_keys import rope_section, yarn_mscale
from llmcli.model import LatentConfig


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


def glm_moe_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GLM 4.5: the larger models have norms of queries and keys."""
    return {"qk_norm": "head" if keys.flag("use_qk_norm") else None}


def minicpm3_extras(keys: ConfigKeys) -> dict[str, Any]:
    """MiniCPM3: DeepSeek's attention, and factors of maximal update parametrization that are one if null."""
    hidden, layers = keys.integer("hidden_size"), keys.integer("num_hidden_layers")
    if keys.get("v_head_dim") is None:
        value = max(1, hidden // keys.integer("num_attention_heads"))
        keys = replace(keys, values={**keys.values, "v_head_dim": value})
    depth, base = keys.optional_positive("scale_depth"), keys.optional_positive("dim_model_base")
    return deepseek_extras(keys) | {
        "embed_scale": keys.positive("scale_emb"),
        "embed_scale_rounded": True,
        "residual_scale": 1.0 if depth is None else depth / layers**0.5,
        "logit_scale": 1.0 if base is None else base / hidden,
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
