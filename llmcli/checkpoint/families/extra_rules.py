"""Rules of model families for further fields of `ModelConfig`: scales, norms of heads, latent attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.layer_rules import FULL
from llmcli.checkpoint.families.rope_keys import rope_section, yarn_mscale
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import Alibi, AltupConfig, AttentionGate, HeadLayer, LatentConfig, NormStyle, PerLayerConfig
from llmcli.model.config import Activation


def no_extras(keys: ConfigKeys) -> dict[str, Any]:
    """No further fields."""
    return {}


def gemma_scales(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma: embeddings are multiplied by the square root of the hidden size."""
    return {"embed_scale": keys.integer("hidden_size") ** 0.5, "embed_scale_rounded": True}


def recurrent_gemma_extras(keys: ConfigKeys) -> dict[str, Any]:
    """RecurrentGemma: the factor on embeddings has bfloat16's 8 bits, and the file states both halves of the gate."""
    mantissa, exponent = math.frexp(keys.integer("hidden_size") ** 0.5)
    return {
        "embed_scale": math.ldexp(round(mantissa * 256), exponent - 8),
        "logit_softcap": keys.positive("logits_soft_cap"),
        "intermediate_size": keys.integer("intermediate_size") // 2,
        "qkv_bias": keys.flag("attention_bias"),
        "o_bias": True,
        "mlp_bias": True,
    }


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


def gemma4_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma 4: unscaled scores, normalized values, a factor on each layer, and in small models per-layer embeddings."""
    return gemma_scales(keys) | {
        "attention_scale": 1.0,
        "logit_softcap": keys.optional_positive("final_logit_softcapping"),
        "value_norm": True,
        "layer_scale": True,
        "per_layer": per_layer(keys),
    }


def gemma3n_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Gemma 3n: as Gemma 4, with several residual streams instead of a factor on each layer."""
    altup = AltupConfig(
        keys.integer("altup_num_inputs"), keys.integer("laurel_rank"), scaled=keys.flag("altup_correct_scale")
    )
    return gemma4_extras(keys) | {"layer_scale": False, "altup": altup}


def per_layer(keys: ConfigKeys) -> PerLayerConfig | None:
    """Gemma 3n and 4: per-layer embeddings, if `hidden_size_per_layer_input` is not 0."""
    size = keys.optional_integer("hidden_size_per_layer_input", minimum=0)
    return PerLayerConfig(keys.integer("vocab_size_per_layer_input"), size) if size else None


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


def grok_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Grok-1: capped scores, and factors on scores, embeddings and logits. Its "gelu" is the tanh approximation."""
    return {
        "attention_scale": keys.positive("attn_output_multiplier"),
        "attention_softcap": keys.optional_positive("max_attn_value"),
        "embed_scale": keys.positive("embedding_multiplier_scale"),
        "logit_scale": keys.positive("output_multiplier_scale"),
    } | ({"activation": "gelu_tanh"} if keys.text("hidden_act") == "gelu" else {})


def compass_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Cohere's Compass: a factor on the logits, one if null."""
    return {"logit_scale": 1.0 if keys.get("logit_scale") is None else keys.number("logit_scale")}


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


def gpt1_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GPT-1: learned positions, and no norm in front of the head. Its "gelu" is the tanh approximation."""
    activation = {"activation": "gelu_tanh"} if keys.text("hidden_act") == "gelu" else {}
    return {"learned_positions": True, "final_norm": NormStyle("none"), **activation}


def gpt_bigcode_extras(keys: ConfigKeys) -> dict[str, Any]:
    """StarCoder 1: like GPT-2; all heads may share one key head."""
    return gpt2_extras(keys) | ({"num_kv_heads": 1} if keys.flag("multi_query") else {})


def gpt_neo_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GPT-Neo: learned positions, and scores that are not scaled."""
    return {"learned_positions": True, "attention_scale": 1.0}


def gpt_neox_japanese_extras(keys: ConfigKeys) -> dict[str, Any]:
    """GPT-NeoX Japanese: a bias of attention's output, which is zero in all layers but the last."""
    size = keys.integer("intermediate_multiple_size") * keys.integer("hidden_size")
    return {"placement": "pre", "intermediate_size": size, "o_bias": True}


def opt_extras(keys: ConfigKeys) -> dict[str, Any]:
    """OPT: learned positions; two sizes have embeddings of another size, which are projected."""
    size = keys.optional_integer("word_embed_proj_dim")
    if size is not None and size != keys.integer("hidden_size"):
        raise UnsupportedModelError(
            f"{keys.path} has word_embed_proj_dim = {size}: embeddings of another size than hidden_size are not "
            "supported."
        )
    return {"learned_positions": True}


def biogpt_extras(keys: ConfigKeys) -> dict[str, Any]:
    """BioGPT and XGLM: one vector for each position, and embeddings scaled like Gemma's."""
    scale = keys.integer("hidden_size") ** 0.5 if keys.flag("scale_embedding") else 1.0
    return {"learned_positions": True, "embed_scale": scale}


def persimmon_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Persimmon: norms of queries and keys can be switched off."""
    return {"qk_norm": "head" if keys.flag("qk_layernorm") else None}


def falcon_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Falcon: three generations, with one key head, one for each query head, or groups."""
    heads = keys.integer("num_attention_heads")
    if keys.flag("new_decoder_architecture"):
        kv_heads = keys.optional_integer("num_kv_heads") or heads
        placement = "parallel_shared" if keys.optional_integer("num_ln_in_parallel_attn") == 1 else "parallel"
    else:
        kv_heads = 1 if keys.flag("multi_query") else heads
        placement = "parallel_shared" if keys.flag("parallel_attn") else "pre"
    if heads % kv_heads:
        raise CheckpointError(f"{keys.path}: {heads} attention heads cannot share {kv_heads} key-value heads evenly.")
    alibi = Alibi(as_score=True) if keys.flag("alibi") else None
    return {"num_kv_heads": kv_heads, "placement": placement, "alibi": alibi}


def bloom_extras(keys: ConfigKeys) -> dict[str, Any]:
    """BLOOM: scores biased by distance, and a norm of the embeddings."""
    return {"alibi": Alibi(), "embed_norm": NormStyle("layer", bias=True)}


def mpt_extras(keys: ConfigKeys) -> dict[str, Any]:
    """MPT: scores biased by distance; queries, keys and values may be clamped."""
    return {
        "alibi": Alibi(),
        "qkv_clip": keys.optional_positive("clip_qkv"),
        "attention_scale": keys.optional_positive("softmax_scale"),
        "intermediate_size": keys.integer("expansion_ratio") * keys.integer("hidden_size"),
    }


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


def bailing_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Ling 3: latent attention with a gate for each head."""
    return deepseek_extras(keys) | {"attention_gate": AttentionGate(per_head=True)}


def falcon_h1_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Falcon-H1: factors on embeddings and logits."""
    return {"embed_scale": keys.number("embedding_multiplier"), "logit_scale": keys.number("lm_head_multiplier")}


def modernbert_extras(keys: ConfigKeys) -> dict[str, Any]:
    """ModernBERT's decoders: normalized embeddings, and a layer in front of the output head."""
    norm, activation = NormStyle("layer", bias=keys.flag("norm_bias")), keys.text("classifier_activation")
    if activation not in get_args(Activation):
        raise UnsupportedModelError(f"{keys.path} has classifier_activation = {activation!r}, which is unknown.")
    head: Any = HeadLayer(activation, bias=keys.flag("classifier_bias"))  # type: ignore[arg-type]
    return {"norm": norm, "embed_norm": norm, "head_layer": head}


def mimo_extras(keys: ConfigKeys) -> dict[str, Any]:
    """MiMo-V2: a factor on the values."""
    return {"value_scale": keys.optional_positive("attention_value_scale") or 1.0}


def apertus_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Apertus 1.5: the head may leave out tokens of images and sound, which come last."""
    size = keys.optional_integer("output_vocab_size")
    return {} if size is None else {"vocab_size": min(size, keys.integer("vocab_size"))}


def afmoe_extras(keys: ConfigKeys) -> dict[str, Any]:
    """AFMoE: a gate on attention; embeddings may be scaled like Gemma's."""
    scale = keys.integer("hidden_size") ** 0.5 if keys.flag("mup_enabled") else 1.0
    return {"attention_gate": AttentionGate(), "embed_scale": scale}


def muse_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Muse Glimmer: a gate on attention, embeddings and heads normalized without weights, a factor on the logits."""
    return {
        "attention_gate": AttentionGate(),
        "attention_scale": keys.positive("qk_scale_factor") * keys.integer("head_dim") ** -0.5,
        "embed_norm": NormStyle(weight=False),
        "final_norm": NormStyle(round_first=False),
        "post_norm_eps": keys.not_negative("post_norm_eps"),
        "logit_scale": keys.number("output_multiplier"),
        "logit_softcap": keys.positive("final_logit_softcapping"),
    }


def laguna_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Laguna: a gate for each head, or for each of its values."""
    gating = keys.get("gating")
    if gating not in (True, "per-head", "per-element"):
        raise UnsupportedModelError(f"{keys.path} has gating = {gating!r}; true, per-head and per-element are known.")
    return {"attention_gate": AttentionGate(per_head=gating != "per-element", activation="softplus")}


def nanochat_extras(keys: ConfigKeys) -> dict[str, Any]:
    """nanochat: embeddings are normalized, logits may be capped."""
    return {
        "embed_norm": NormStyle(weight=False),
        "logit_softcap": keys.optional_positive("final_logit_softcapping"),
    }


def bitnet_extras(keys: ConfigKeys) -> dict[str, Any]:
    """BitNet: norms before both output projections."""
    return {"sub_norms": True}


def hyperclovax_extras(keys: ConfigKeys) -> dict[str, Any]:
    """HyperCLOVAX: Granite's factors, but logits are multiplied; outputs may be normalized too."""
    scale = keys.optional_positive("attention_multiplier")
    return {
        "embed_scale": keys.number("embedding_multiplier"),
        "attention_scale": scale,
        "residual_scale": keys.number("residual_multiplier"),
        "logit_scale": keys.number("logits_scaling"),
        "placement": "sandwich" if keys.flag("use_post_norm") else "pre",
    }


def cohere_moe_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Cohere with experts: RMSNorm if the file states its epsilon, and dense layers of their own size."""
    extras: dict[str, Any] = {"logit_scale": keys.number("logit_scale")}
    stated = ConfigKeys(keys.values, keys.path)
    # Only what is derived from a GGUF file has a norm_type, since all epsilons have one name there.
    if stated.get("rms_norm_eps") is not None and stated.get("norm_type") != "layer":
        extras |= {"norm": NormStyle(), "norm_eps": stated.not_negative("rms_norm_eps")}
    dense = keys.optional_integer("prefix_dense_intermediate_size")
    return extras | ({} if dense is None else {"intermediate_size": dense})
