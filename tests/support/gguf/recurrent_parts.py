"""How llama.cpp's converter writes models with recurrent layers: metadata, and tensors that it changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ARCHITECTURE_NAMES = {
    "falcon_mamba": "mamba",
    "bamba": "granitehybrid",
    "falcon_h1": "falcon-h1",
    "kimi_linear": "kimi-linear",
}
RECURRENT = ("mamba", "mamba2", "granitehybrid", "falcon-h1", "jamba", "nemotron_h", "nemotron_h_moe", "kimi-linear")
_UNLIMITED = 2**20


def recurrent_name(config: Any) -> str:
    """The value of `general.architecture`."""
    if config.model_type == "nemotron_h":
        return "nemotron_h_moe" if "moe" in config.layers_block_type else "nemotron_h"
    if config.model_type == "granitemoehybrid":
        return "granitehybrid"
    return ARCHITECTURE_NAMES.get(config.model_type, str(config.model_type))


def is_recurrent(config: Any) -> bool:
    return "linear_attention" in (getattr(config, "layer_types", None) or ()) or config.model_type == "falcon_h1"


def recurrent_metadata(config: Any, architecture: str) -> dict[str, Any]:
    """The keys below the architecture's name."""
    found: dict[str, Any] = {
        "context_length": _UNLIMITED,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None) or config.layer_norm_epsilon,
    }
    if architecture in ("mamba", "mamba2"):
        found |= {"feed_forward_length": 0, "attention.head_count": 0}
    elif architecture != "falcon-h1":
        heads = 1 if architecture == "kimi-linear" else config.num_key_value_heads
        kinds = config.layer_types
        found["attention.head_count_kv"] = [heads if kind == "full_attention" else 0 for kind in kinds]
    return found | _STATES[architecture](config)


def _mamba(config: Any) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.intermediate_size,
        "ssm.state_size": config.state_size,
        "ssm.time_step_rank": config.time_step_rank,
        "ssm.dt_b_c_rms": config.model_type == "falcon_mamba",
    }


def _mamba2(config: Any) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.num_heads * config.head_dim,
        "ssm.state_size": config.state_size,
        "ssm.time_step_rank": config.num_heads,
        "ssm.group_count": config.n_groups,
    }


def _bamba(config: Any) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.inner_size": config.mamba_n_heads * config.mamba_d_head,
        "ssm.state_size": config.mamba_d_state,
        "ssm.time_step_rank": config.mamba_n_heads,
        "ssm.group_count": config.mamba_n_groups,
    }


def _granite(config: Any) -> dict[str, Any]:
    found = _bamba(config)
    if config.model_type == "bamba":
        size = config.hidden_size // config.num_attention_heads
        return found | {
            "context_length": config.max_position_embeddings,
            "rope.scaling.finetuned": True,
            "rope.freq_base": float(config.rope_parameters["rope_theta"]),
            "rope.dimension_count": size // 2,
        }
    found |= {
        "rope.scaling.finetuned": False,
        "attention.scale": float(config.attention_multiplier),
        "embedding_scale": float(config.embedding_multiplier),
        "residual_scale": float(config.residual_multiplier),
        "logit_scale": float(config.logits_scaling),
    }
    if not config.num_local_experts:
        return found | {"feed_forward_length": config.shared_intermediate_size}
    return found | {
        "expert_count": config.num_local_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_feed_forward_length": config.shared_intermediate_size,
    }


def _falcon_h1(config: Any) -> dict[str, Any]:
    size = config.hidden_size // config.num_attention_heads
    return _bamba(config) | {
        "context_length": config.max_position_embeddings,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }


def _jamba(config: Any) -> dict[str, Any]:
    return {
        "context_length": config.max_position_embeddings,
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.inner_size": config.mamba_expand * config.hidden_size,
        "ssm.state_size": config.mamba_d_state,
        "ssm.time_step_rank": config.mamba_dt_rank,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
    }


def _nemotron(config: Any) -> dict[str, Any]:
    kinds = config.layers_block_type
    width = config.moe_intermediate_size if "moe" in kinds else config.intermediate_size
    found = {
        "feed_forward_length": [width if kind in ("moe", "mlp") else 0 for kind in kinds],
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.mamba_num_heads * config.mamba_head_dim,
        "ssm.state_size": config.ssm_state_size,
        "ssm.time_step_rank": config.mamba_num_heads,
        "ssm.group_count": config.n_groups,
    }
    if "moe" not in kinds:
        return found
    return found | {
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "expert_shared_count": 1,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "moe_latent_size": config.moe_latent_size,
    }


def _kimi(config: Any) -> dict[str, Any]:
    return {
        "context_length": config.max_position_embeddings,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.v_head_dim,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "kda.head_dim": config.linear_head_dim,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_norm": config.moe_renormalize,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_gating_func": 2,
        "expert_group_count": config.num_expert_group,
        "expert_group_used_count": config.topk_group,
        "leading_dense_block_count": 1,
    }


_STATES = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "granitehybrid": _granite,
    "falcon-h1": _falcon_h1,
    "jamba": _jamba,
    "nemotron_h": _nemotron,
    "nemotron_h_moe": _nemotron,
    "kimi-linear": _kimi,
}


def published_name(name: str, architecture: str) -> str:
    """The name that published files have for a tensor of transformers' model in memory."""
    if architecture.startswith("nemotron_h"):
        name = name.replace("model.", "backbone.", 1) if name.startswith("model.") else name
    return name.replace("self_attn.forget_gate.", "self_attn.")


def changed_tensors(at: str, part: str, tensor: Tensor, config: Any, architecture: str) -> dict[str, Tensor] | None:
    """The tensors that the converter writes for a part that it changes; None: it does not."""
    if architecture not in RECURRENT:
        return None
    leaf = part.rpartition(".")[2]
    # Rates are columns in all but the first Mamba, and in Kimi's delta attention.
    as_column = architecture not in ("mamba", "jamba", "kimi-linear")
    if leaf == "A_log":
        rates = -tensor.exp()
        return {f"{at}ssm_a": rates[:, None] if as_column else rates}
    if leaf == "D":
        return {f"{at}ssm_d": tensor[:, None] if as_column else tensor}
    if leaf == "dt_bias":
        return {f"{at}ssm_dt.bias": tensor}
    if part.endswith("self_attn.conv1d.weight"):
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{at}ssm_conv1d_{which}.weight": third[None] for which, third in thirds}
    if part.endswith("conv1d.weight"):
        return {f"{at}ssm_conv1d.weight": tensor.squeeze()}
    if part in ("mixer.norm.weight", "mamba.norm.weight"):
        groups = config.n_groups if hasattr(config, "n_groups") else config.mamba_n_groups
        return {f"{at}ssm_norm.weight": tensor.view(groups, -1)}
    if part in ("mixer.experts.up_proj", "mixer.experts.down_proj"):
        return {f"{at}ffn_{leaf.removesuffix('_proj')}_exps.weight": tensor}
    if part == "self_attn.kv_b_proj.weight" and architecture == "kimi-linear":
        both = tensor.view(config.num_attention_heads, config.qk_nope_head_dim + config.v_head_dim, -1)
        keys, values = both.tensor_split([config.qk_nope_head_dim], dim=1)
        return {f"{at}attn_k_b.weight": keys.transpose(1, 2), f"{at}attn_v_b.weight": values}
    return None


def multiplied(part: str, tensor: Tensor, config: Any) -> Any:
    """A weight of Falcon-H1 times the constants that the model multiplies its input and output by."""
    gate, down = config.mlp_multipliers
    read = config.attention_in_multiplier
    factors = {
        "feed_forward.gate_proj": gate,
        "feed_forward.down_proj": down,
        "self_attn.q_proj": read,
        "self_attn.k_proj": read * config.key_multiplier,
        "self_attn.v_proj": read,
        "self_attn.o_proj": config.attention_out_multiplier,
        "mamba.out_proj": config.ssm_out_multiplier,
        "model.embed_tokens": config.embedding_multiplier,
        "lm_head": config.lm_head_multiplier,
    }
    if part == "mamba.in_proj.weight":
        inner, shared = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
        rows = torch.tensor([inner, inner, shared, shared, config.mamba_n_heads])
        by_row = torch.tensor(config.ssm_multipliers).repeat_interleave(rows)
        return tensor * by_row[:, None] * config.ssm_in_multiplier
    return tensor * factors.get(part.removesuffix(".weight"), 1.0)
