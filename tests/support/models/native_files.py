"""Checkpoints in the layouts of Mistral and Meta, made from `transformers` models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.models.tiny import write_text_files

Tensors = dict[str, Tensor]
NAMES = (
    (r"model\.embed_tokens", "tok_embeddings"),
    (r"model\.norm", "norm"),
    (r"lm_head", "output"),
    (r"model\.layers", "layers"),
    (r"input_layernorm", "attention_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"self_attn\.(.)_proj", r"attention.w\1"),
    (r"mlp\.experts\.(\d+)", r"feed_forward.experts.\1"),
    (r"block_sparse_moe\.experts\.(\d+)", r"feed_forward.experts.\1"),
    (r"(block_sparse_moe|mlp)\.gate\.", "feed_forward.gate."),
    (r"mlp\.gate_proj", "feed_forward.w1"),
    (r"mlp\.down_proj", "feed_forward.w2"),
    (r"mlp\.up_proj", "feed_forward.w3"),
)


def native(model: Any) -> Tensors:
    """The weights of a `transformers` model under Meta's names, with queries and keys in Meta's order."""
    heads = {"wq": model.config.num_attention_heads, "wk": model.config.num_key_value_heads}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for pattern, meant in NAMES:
            name = re.sub(pattern, meant, name)
        count = heads.get(name.split(".")[-2])
        if count is not None:
            # Row j of the first half and row j of the second become adjacent.
            tensor = tensor.view(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        tensors[name] = tensor.contiguous()
    return split_experts(tensors)


def split_experts(tensors: Tensors) -> Tensors:
    """Split stacks of experts, as `transformers` holds them, into single experts."""
    single = {}
    for name, tensor in tensors.items():
        stem, _, what = name.rpartition(".")
        for index, expert in enumerate(tensor if what in ("gate_up_proj", "down_proj") else ()):
            parts = {"w2": expert} if what == "down_proj" else dict(zip(("w1", "w3"), expert.chunk(2), strict=True))
            for part, matrix in parts.items():
                at = stem.replace("mlp", "feed_forward")
                single[f"{at}.{index}.{part}.weight"] = matrix.contiguous()
        if what not in ("gate_up_proj", "down_proj"):
            single[name] = tensor
    return single


def mistral_params(model: Any, **changes: Any) -> dict[str, Any]:
    config = model.config
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "head_dim": config.head_dim or config.hidden_size // config.num_attention_heads,
        "hidden_dim": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    return params | changes


def meta_params(model: Any, **changes: Any) -> dict[str, Any]:
    keep = ("dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps")
    params = {key: value for key, value in mistral_params(model).items() if key in keep}
    return {**params, "vocab_size": -1, "multiple_of": 16, **changes}


def write_safetensors(folder: Path, params: dict[str, Any], tensors: Tensors, *, shards: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    write_text_files(folder)
    (folder / "params.json").write_text(json.dumps(params))
    names = list(tensors)
    for index in range(shards):
        name = "consolidated" if shards == 1 else f"consolidated-{index + 1:05}-of-{shards:05}"
        save_file({key: tensors[key] for key in names[index::shards]}, folder / f"{name}.safetensors")
    return folder


def write_pth(folder: Path, params: dict[str, Any], tensors: Tensors, *, shards: int = 1, cut: int = 0) -> Path:
    """Split every matrix over the shards; `cut` is the dimension along which the embedding is split."""
    folder.mkdir(exist_ok=True)
    write_text_files(folder)
    (folder / "params.json").write_text(json.dumps(params))
    dimensions = {"wo": 1, "w2": 1, "tok_embeddings": cut}
    for index in range(shards):
        pieces = {}
        for name, tensor in tensors.items():
            whole = tensor.dim() == 1 or shards == 1
            dimension = dimensions.get(name.split(".")[-2], 0)
            pieces[name] = tensor if whole else tensor.chunk(shards, dimension)[index].clone()
        pieces["rope.freqs"] = torch.ones(4)
        torch.save(pieces, folder / f"consolidated.{index:02}.pth")
    return folder
