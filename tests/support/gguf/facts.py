"""The metadata that llama.cpp's converter writes for a `transformers` model."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.support.gguf.delta_parts import DELTA_NAMES, delta_metadata
from tests.support.gguf.recurrent_parts import RECURRENT, is_recurrent, recurrent_metadata, recurrent_name
from tests.support.models.tiny import SPECIALS, TEMPLATE, byte_tokenizer

ARCHITECTURE_NAMES = {
    "llama": "llama",
    "mistral": "llama",
    "ministral": "llama",
    "mixtral": "llama",
    "ministral3": "mistral3",
    "llama4_text": "llama4",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "gemma3n_text": "gemma3n",
    "gemma4_text": "gemma4",
    "gemma4_unified_text": "gemma4",
    "phi": "phi2",
    "olmo3": "olmo2",
    "granitemoeshared": "granitemoe",
    "granitemoehybrid": "granitemoe",
    "cohere": "command-r",
    "gpt_neox": "gptneox",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "glm4_moe_lite": "deepseek2",
    "youtu": "deepseek2",
    "solar_open": "glm4moe",
    "gpt_oss": "gpt-oss",
    "glm": "chatglm",
    "glm4_moe": "glm4moe",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone_moe": "exaone-moe",
    "minimax_m2": "minimax-m2",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hunyuan_v1_moe": "hunyuan-moe",
    "gpt_bigcode": "starcoder",
    "granite_swa": "granite-swa",
    "granitemoe_swa": "granite-swa",
    "sarvam_moe": "bailingmoe2",
    "bitnet": "bitnet-b1.58",
    "muse_glimmer_text": "muse-glimmer",
    "cohere2_moe": "cohere2moe",
    "mimo_v2_flash": "mimo2",
    "deepseek_v32": "deepseek32",
    "glm_moe_dsa": "glm-dsa",
}
LATENT = ("deepseek2", "deepseek32", "glm-dsa", "mistral4")


def architecture_name(config: Any) -> str:
    """The value of `general.architecture`."""
    if config.model_type in DELTA_NAMES:
        return DELTA_NAMES[config.model_type]
    if is_recurrent(config):
        return recurrent_name(config)
    if config.model_type == "granitemoehybrid" and not config.num_local_experts:
        return "granite"
    return ARCHITECTURE_NAMES.get(config.model_type, str(config.model_type))


def head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def kv_head_count(config: Any) -> int:
    if config.model_type in ("gpt2", "gpt_neox", "bloom", "mpt"):
        return int(config.num_attention_heads)
    shared = config.model_type == "falcon" and not config.new_decoder_architecture
    if shared or config.model_type == "gpt_bigcode":
        return 1 if config.multi_query else int(config.num_attention_heads)
    if config.model_type == "falcon":
        return int(config.num_kv_heads)
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def metadata(config: Any, architecture: str, *, old: bool) -> dict[str, Any]:
    """The keys below the architecture's name."""
    if architecture in DELTA_NAMES.values():
        return delta_metadata(config, architecture)
    if architecture in RECURRENT:
        return recurrent_metadata(config, architecture)
    values = config.to_dict()
    heads, hidden = config.num_attention_heads, config.hidden_size
    inner = values.get("intermediate_size_mlp") or values.get("intermediate_size")
    if architecture in ("gpt2", "starcoder"):
        inner = config.n_inner or 4 * hidden
    if architecture in ("bloom", "mpt"):
        inner = 4 * hidden
    if architecture == "falcon":
        inner = config.ffn_hidden_size
    if architecture == "dbrx":
        inner = config.ffn_config.ffn_hidden_size
    if architecture == "granite" and config.model_type == "granitemoehybrid":
        inner = config.shared_intermediate_size
    found: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": hidden,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_head_count(config),
    }
    if values.get("head_dim"):
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if values.get("rms_norm_eps") is not None:
        found["attention.layer_norm_rms_epsilon"] = values["rms_norm_eps"]
    else:
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
        found["attention.layer_norm_epsilon"] = next((values[name] for name in names if name in values), 1e-5)
    found |= rope_metadata(config, architecture, values)
    found |= window_metadata(architecture, values)
    found |= expert_metadata(architecture, values)
    found |= scale_metadata(architecture, values)
    if architecture in LATENT:
        found |= latent_metadata(config, old=old)
    if architecture == "laguna":
        found |= laguna_metadata(config)
    if architecture == "mimo2":
        found |= mimo_metadata(config)
    if architecture == "phimoe":
        # Written under the key of another kind of norm.
        found["attention.layer_norm_rms_epsilon"] = values["rms_norm_eps"]
    if architecture == "minicpm3":
        found |= {
            "attention.kv_lora_rank": config.kv_lora_rank,
            "attention.q_lora_rank": config.q_lora_rank,
            "attention.key_length": config.qk_nope_head_dim + config.qk_rope_head_dim,
        }
        del found["attention.value_length"]
    if architecture == "gemma4":
        found |= gemma4_metadata(config)
    if architecture == "gemma3n":
        found |= gemma3n_metadata(config)
    return found


def laguna_metadata(config: Any) -> dict[str, Any]:
    """Heads of each layer, and rotations of layers with and without a window."""
    size, rope = head_size(config), config.rope_parameters
    heads = config.num_attention_heads_per_layer or [config.num_attention_heads] * config.num_hidden_layers
    found: dict[str, Any] = {"attention.head_count": list(heads)}
    if "sliding_attention" in config.layer_types:
        share = rope["sliding_attention"].get("partial_rotary_factor", 1.0)
        found["rope.dimension_count_swa"] = int(size * share)
    if config.moe_router_logit_softcapping:
        found["router_logit_softcapping"] = config.moe_router_logit_softcapping
    return found


def mimo_metadata(config: Any) -> dict[str, Any]:
    """Heads of each layer, and the window without the query itself."""
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    return {
        "attention.value_length": config.v_head_dim,
        "attention.head_count_kv": [config.num_key_value_heads * (2 if slide else 1) for slide in slides],
        "attention.sliding_window": config.sliding_window - 1,
        "attention.sliding_window_pattern": slides,
        "attention.value_scale": config.attention_value_scale,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_gating_func": 2,
        "rope.freq_base_swa": config.rope_parameters["sliding_attention"]["rope_theta"],
    }


def gemma3n_metadata(config: Any) -> dict[str, Any]:
    """Residual streams, what layers share, and how sparse their activations are."""
    shares = torch.tensor(config.activation_sparsity_pattern)
    return {
        "rope.freq_base_swa": float(config.rope_parameters["sliding_attention"]["rope_theta"]),
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "altup.num_inputs": config.altup_num_inputs,
        "altup.active_idx": config.altup_active_idx,
        "activation_sparsity_scale": torch.distributions.normal.Normal(0, 1).icdf(shares).tolist(),  # type: ignore[no-untyped-call]
        "final_logit_softcapping": config.final_logit_softcapping,
    }


def gemma4_metadata(config: Any) -> dict[str, Any]:
    """Sizes that differ between layers with and without a window, and what layers share."""
    full = config.per_layer_config["full_attention"]
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    found: dict[str, Any] = {
        "attention.key_length": full.head_dim,
        "attention.value_length": full.head_dim,
        "attention.key_length_swa": config.head_dim,
        "attention.value_length_swa": config.head_dim,
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": config.head_dim,
        "rope.freq_base_swa": float(config.rope_parameters["sliding_attention"]["rope_theta"]),
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": slides,
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "embedding_length_per_layer_input": getattr(config, "hidden_size_per_layer_input", 0),
    }
    if full.num_key_value_heads != config.num_key_value_heads:
        found["attention.head_count_kv"] = [
            config.num_key_value_heads if slide else full.num_key_value_heads for slide in slides
        ]
    if config.use_double_wide_mlp:
        own, size = config.num_hidden_layers - config.num_kv_shared_layers, config.intermediate_size
        found["feed_forward_length"] = [size if index < own else 2 * size for index in range(len(slides))]
    if config.final_logit_softcapping:
        found["final_logit_softcapping"] = config.final_logit_softcapping
    if getattr(config, "enable_moe_block", False):
        found |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.top_k_experts,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    return found


def rope_metadata(config: Any, architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """RoPE keys, without the factors that are stored as tensors."""
    if architecture in ("gpt2", "starcoder", "bloom", "mpt"):
        return {}
    if architecture == "minicpm3":
        return {"rope.dimension_count": config.qk_rope_head_dim}
    nested = values["rope_parameters"]
    rope = nested.get("full_attention", nested)
    size = config.qk_rope_head_dim if architecture in LATENT else head_size(config)
    found: dict[str, Any] = {"rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0))}
    if architecture == "mistral4":
        # The share of a whole head, which the size already says.
        found["rope.dimension_count"] = size
    if rope.get("alpha"):
        # Static, so it becomes a part of the base.
        rope = {**rope, "rope_theta": rope["rope_theta"] * rope["alpha"] ** (size / (size - 2))}
    # GPT-NeoX has the same base in all models, so the key is added here.
    if architecture != "gptneox":
        found["rope.freq_base"] = float(rope["rope_theta"])
    if "sliding_attention" in nested and architecture in ("gemma3", "laguna", "mellum"):
        found["rope.freq_base_swa"] = float(nested["sliding_attention"]["rope_theta"])
    if architecture in ("granite", "granitemoe") and config.model_type == "granitemoehybrid":
        found["rope.scaling.finetuned"] = config.position_embedding_type == "rope"
        # Keys of recurrent layers, which such a model does not have.
        found["ssm.conv_kernel"] = 4
    kind, original = rope["rope_type"], rope.get("original_max_position_embeddings")
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = original
        if architecture == "olmo2":
            found["rope.scaling.attn_factor"] = rope["attention_factor"]
        if architecture in LATENT:
            found["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
        if architecture == "mistral3":
            found["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
        if architecture in ("mistral3", "mistral4"):
            found["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
    if kind == "longrope":
        original = original or config.original_max_position_embeddings
        stretch = config.max_position_embeddings / original
        found["rope.scaling.original_context_length"] = original
        found["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(original))
    return found


def window_metadata(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """The sliding window, for architectures whose converter writes it."""
    if architecture == "llama4":
        return {
            "attention.sliding_window": values["attention_chunk_size"],
            "attention.temperature_length": int(values["floor_scale"]),
            "interleave_moe_layer_step": values["interleave_moe_layer_step"],
        }
    if architecture == "phi3":
        return {"attention.sliding_window": values.get("sliding_window") or 0}
    if architecture in (
        "gemma2",
        "gemma3",
        "cohere2",
        "gpt-oss",
        "olmo2",
        "exaone4",
        "exaone-moe",
        "afmoe",
        "mellum",
        "granite-swa",
        "laguna",
        "muse-glimmer",
        "cohere2moe",
    ) and values.get("sliding_window"):
        found = {"attention.sliding_window": values["sliding_window"]}
        if architecture not in ("gemma2", "gemma3", "cohere2", "gpt-oss", "afmoe"):
            kinds = values["layer_types"]
            found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in kinds]
        return found
    return {}


def expert_metadata(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """Numbers and sizes of experts."""
    values = {**values, **(values.get("ffn_config") or {})}
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    count = next((values[name] for name in names if name in values), 0)
    if not count or architecture in ("granite", "gemma4"):
        return {}
    names = ("num_experts_per_tok", "moe_k", "moe_top_k", "moe_topk")
    used = next(values[name] for name in names if name in values)
    found: dict[str, Any] = {"expert_count": count, "expert_used_count": used}
    if architecture == "ernie4_5-moe":
        found |= {
            "expert_shared_count": values["moe_num_shared_experts"],
            "leading_dense_block_count": values["moe_layer_start_index"],
            "interleave_moe_layer_step": values["moe_layer_interval"],
        }
    if architecture == "afmoe":
        found |= {
            "expert_shared_count": values["num_shared_experts"],
            "expert_weights_scale": float(values["route_scale"]),
            "expert_weights_norm": True,
            "leading_dense_block_count": values["num_dense_layers"],
            "expert_gating_func": 2,
        }
    if architecture in ("minimax-m2", "hunyuan-moe"):
        found["expert_feed_forward_length"] = values["intermediate_size"]
    if architecture in ("hy_v3", "laguna"):
        scale = values["router_scaling_factor" if architecture == "hy_v3" else "moe_routed_scaling_factor"]
        found |= {"expert_weights_scale": float(scale), "expert_weights_norm": True, "expert_gating_func": 2}
    if architecture == "hy_v3":
        shared = values["moe_intermediate_size"] * values["num_shared_experts"]
        found["expert_shared_feed_forward_length"] = shared
    if architecture == "cohere2moe":
        found |= {
            "expert_feed_forward_length": values["intermediate_size"],
            "expert_shared_feed_forward_length": values["intermediate_size"] * values["num_shared_experts"],
            "expert_shared_count": values["num_shared_experts"],
            "leading_dense_block_count": values["mlp_layer_types"].count("dense"),
            "expert_weights_norm": values["norm_topk_prob"],
            "expert_gating_func": 2,
        }
    if architecture in ("glm4moe", "dots1", "exaone-moe", "bailingmoe2"):
        shared = values.get("n_shared_experts") or values.get("num_shared_experts")
        found |= {
            "expert_shared_count": shared,
            "expert_weights_scale": float(values["routed_scaling_factor"]),
            "expert_weights_norm": values["norm_topk_prob"],
            "leading_dense_block_count": values.get("first_k_dense_replace", 0),
            "expert_gating_func": 2,
            "expert_group_count": values["n_group"],
            "expert_group_used_count": values["topk_group"],
        }
    if architecture == "llama4":
        found["expert_feed_forward_length"] = values["intermediate_size"]
    if values.get("moe_intermediate_size"):
        found["expert_feed_forward_length"] = values["moe_intermediate_size"]
    shared = values.get("shared_expert_intermediate_size") or values.get("shared_intermediate_size")
    if shared:
        found["expert_shared_feed_forward_length"] = shared
    if architecture in LATENT:
        third = values["model_type"] != "deepseek_v2"
        found |= {
            "expert_shared_count": values["n_shared_experts"],
            "expert_weights_scale": float(values["routed_scaling_factor"]),
            "expert_weights_norm": third and values["norm_topk_prob"],
            "leading_dense_block_count": values.get("first_k_dense_replace", 1),
        }
        if third:
            found["expert_gating_func"] = 1 if architecture == "mistral4" else 2
        if values.get("n_group") and (third or values["topk_method"] != "greedy"):
            found |= {"expert_group_count": values["n_group"], "expert_group_used_count": values["topk_group"]}
    return found


def scale_metadata(architecture: str, values: dict[str, Any]) -> dict[str, Any]:
    """Factors, caps and switches."""
    if architecture in ("granite", "granitemoe", "granite-swa"):
        rotated = (
            {}
            if architecture != "granite-swa"
            else {"attention.rope_pattern": [int(theta > 0) for theta in values["layer_rope_theta"]]}
        )
        return rotated | {
            "attention.scale": values["attention_multiplier"],
            "embedding_scale": values["embedding_multiplier"],
            "residual_scale": values["residual_multiplier"],
            "logit_scale": values["logits_scaling"],
        }
    stated = {
        "command-r": {"logit_scale": "logit_scale"},
        "cohere2": {"logit_scale": "logit_scale"},
        "cohere2moe": {"logit_scale": "logit_scale"},
        "muse-glimmer": {
            "logit_scale": "output_multiplier",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        "gemma2": {key: key for key in ("attn_logit_softcapping", "final_logit_softcapping")},
        "gptneox": {"use_parallel_residual": "use_parallel_residual"},
        "dbrx": {"attention.clamp_kqv": "clip_qkv"},
        "mpt": {"attention.clamp_kqv": "clip_qkv", "attention.max_alibi_bias": "alibi_bias_max"},
        "olmo": {"attention.clamp_kqv": "clip_qkv"},
        "olmoe": {"attention.clamp_kqv": "clip_qkv"},
    }
    values = {**values, **(values.get("attn_config") or {})}
    found = {key: values[name] for key, name in stated.get(architecture, {}).items()}
    if architecture == "mpt":
        found["attention.max_alibi_bias"] = float(found["attention.max_alibi_bias"])
    if architecture == "gemma3" and values["final_logit_softcapping"]:
        found["final_logit_softcapping"] = values["final_logit_softcapping"]
    # Always written as true.
    return {"use_parallel_residual": True} if architecture == "stablelm" else found


def latent_metadata(config: Any, *, old: bool) -> dict[str, Any]:
    """Sizes of latent attention, in the newer and the older form."""
    key, value = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
    found: dict[str, Any] = {
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.q_lora_rank": config.q_lora_rank,
    }
    if hasattr(config, "index_topk"):
        found |= {
            "attention.indexer.head_count": config.index_n_heads,
            "attention.indexer.key_length": config.index_head_dim,
            "attention.indexer.top_k": config.index_topk,
        }
    if hasattr(config, "indexer_types"):
        found["attention.indexer.types"] = [int(kind == "full") for kind in config.indexer_types]
    if old:
        return found | {"attention.key_length": key, "attention.value_length": value}
    return found | {
        "attention.head_count_kv": 1,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": key,
        "attention.value_length_mla": value,
    }


def tokenizer_metadata() -> dict[str, Any]:
    """The byte tokenizer of the tiny models."""
    vocabulary = byte_tokenizer().get_vocab()
    # A file without merges counts as damaged; the result of the merge replaces the last special token.
    tokens = [*sorted(vocabulary, key=lambda token: vocabulary[token])[:-1], "ab"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }
