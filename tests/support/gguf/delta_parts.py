"""How llama.cpp's converter writes models with gated delta nets or short convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DELTA_NAMES = {
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_next": "qwen3next",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
}
DELTA_NETS = ("qwen35", "qwen35moe", "qwen3next")


def delta_metadata(config: Any, architecture: str) -> dict[str, Any]:
    """The keys below the architecture's name."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None) or config.norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    if hasattr(config, "intermediate_size"):
        found["feed_forward_length"] = config.intermediate_size
    if getattr(config, "num_experts", None):
        found |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    if architecture in DELTA_NETS:
        found |= {
            "attention.key_length": size,
            "attention.value_length": size,
            "rope.dimension_count": size // 4,
            "ssm.conv_kernel": config.linear_conv_kernel_dim,
            "ssm.state_size": config.linear_key_head_dim,
            "ssm.group_count": config.linear_num_key_heads,
            "ssm.time_step_rank": config.linear_num_value_heads,
            "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
            "full_attention_interval": 2,
        }
        if architecture != "qwen3next":
            found["rope.dimension_sections"] = [1, 1, 0, 0]
        if architecture == "qwen35moe":
            # Instead of the interval, which then does not count.
            found["attention.recurrent_layers"] = [kind == "linear_attention" for kind in config.layer_types]
            found |= {"full_attention_interval": 4, "expert_shared_feed_forward_length": 20}
        return found
    kinds = config.layer_types
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds]
    found |= {"attention.head_count_kv": heads, "shortconv.l_cache": config.conv_L_cache}
    if architecture == "lfm2moe":
        return found | {
            "expert_gating_func": 2,
            "leading_dense_block_count": config.num_dense_layers,
            "expert_weights_scale": float(config.routed_scaling_factor),
        }
    width = int(config.block_ffn_dim_multiplier * int(2 * config.intermediate_size / 3))
    return found | {"feed_forward_length": -(-width // config.block_multiple_of) * config.block_multiple_of}


def delta_tensors(
    at: str, part: str, tensor: Tensor, config: Any, architecture: str, *, old: bool
) -> dict[str, Tensor] | None:
    """The tensors that the converter writes for a part that it changes; None: it does not."""
    if part.startswith("conv."):
        return {f"{at}shortconv.{part.removeprefix('conv.')}": tensor.squeeze()}
    if architecture not in DELTA_NETS or not part.startswith("linear_attn."):
        return None
    key_heads, value_heads = config.linear_num_key_heads, config.linear_num_value_heads
    keys, shared = key_heads * config.linear_key_head_dim, value_heads // key_heads
    tiled = architecture != "qwen3next"

    def moved(values: Tensor) -> Tensor:
        """Rows of value heads: the first one of each key head, then the second ones."""
        if not tiled:
            return values
        by_head = values.view(key_heads, shared, -1, *values.shape[1:])
        return by_head.transpose(0, 1).reshape(values.shape)

    match part.removeprefix("linear_attn."):
        case "A_log":
            return {f"{at}ssm_a": moved(-tensor.exp())}
        case "dt_bias":
            return {f"{at}ssm_dt.bias": moved(tensor)}
        case "norm.weight":
            return {f"{at}ssm_norm.weight": tensor}
        case "conv1d.weight":
            rows = tensor.squeeze(1)
            return {f"{at}ssm_conv1d.weight": torch.cat((rows[: 2 * keys], moved(rows[2 * keys :])))}
        case "in_proj_qkv.weight":
            return {f"{at}attn_qkv.weight": torch.cat((tensor[: 2 * keys], moved(tensor[2 * keys :])))}
        case "in_proj_z.weight":
            return {f"{at}attn_gate.weight": moved(tensor)}
        case "in_proj_b.weight":
            return {f"{at}ssm_beta.weight": moved(tensor)}
        case "in_proj_a.weight":
            return {f"{at}ssm_alpha.weight": moved(tensor)}
        case "out_proj.weight":
            return {f"{at}ssm_out.weight": moved(tensor.T).T}
        case "in_proj_ba.weight":
            return {f"{at}ssm_ba.weight": tensor}
        case "in_proj_qkvz.weight" if old:
            return {f"{at}ssm_in.weight": tensor}
    size, values = config.linear_key_head_dim, shared * config.linear_value_head_dim
    by_key_head = tensor.view(key_heads, 2 * size + 2 * values, -1)
    parts = torch.split(by_key_head, [size, size, values, values], dim=1)
    *qkv, z = (each.flatten(0, 1) for each in parts)
    return {f"{at}attn_qkv.weight": torch.cat(qkv), f"{at}attn_gate.weight": z}
