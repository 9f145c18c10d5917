"""Writes `transformers` models as GGUF files by the conventions of llama.cpp's converter: the other side of our loader.

Names come from the `gguf` package's own table; what it does not know (how experts, fused matrices and norms are laid
out, and which facts a file states) is written here from the format's description, not from the loader.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from tests.support.gguf.delta_parts import delta_tensors
from tests.support.gguf.facts import LATENT, architecture_name, head_size, kv_head_count, metadata, tokenizer_metadata
from tests.support.gguf.recurrent_parts import changed_tensors, multiplied, published_name
from tests.support.kernels.packed_blocks import sound_blocks

# Architectures whose converter reorders rows from halves to pairs.
PERMUTED = (
    "llama", "mistral3", "granite", "granitemoe", "granitehybrid", "granite-swa", "smollm3", "arcee", "olmo",
    "muse-glimmer",
)  # fmt: skip
PLUS_ONE = ("gemma", "gemma2", "gemma3", "nemotron", "muse-glimmer", "qwen35", "qwen35moe", "qwen3next")
NOT_PLUS_ONE: dict[str, tuple[str, ...]] = dict.fromkeys(PLUS_ONE, ()) | {"muse-glimmer": ("output_norm.weight",)}
# Architectures that the installed package does not know, and others with the same names of tensors.
SAME_NAMES = {
    "mellum": "qwen3moe",
    "hy_v3": "glm4moe",
    "granite-swa": "granitemoe",
    "laguna": "afmoe",
    "muse-glimmer": "afmoe",
    "cohere2moe": "deepseek2",
    "deepseek32": "glm-dsa",
    "bitnet-b1.58": "bitnet",
}
ROUTERS = (
    "ffn.router.layer",
    "mlp.gate",
    "feed_forward.gate",
    "mlp.router",
    "block_sparse_moe.router",
    "feed_forward.router",
    "mixer.gate",
    "router.proj",
)
EXPERTS = ("mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "experts")
WHOLE = {
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "layer_scalar": "layer_output_scale.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.attn_sub_norm.weight": "attn_sub_norm.weight",
    "mlp.ffn_sub_norm.weight": "ffn_sub_norm.weight",
    "altup.correct_output_scale": "altup_correct_scale.weight",
}
SHARED_GATE = "mlp.shared_expert_gate.weight"


def float32(name: str, values: np.ndarray) -> Kind:
    """Keep every tensor unquantized."""
    return Kind.F32


def write_gguf(
    model: Any,
    path: Path,
    *,
    kind_of: Callable[[str, np.ndarray], Kind] = float32,
    decoded: bool = False,
    largest_part: int = 0,
    old: bool = False,
    joined: bool = False,
    architecture: str | None = None,
    changes: dict[str, Any] | None = None,
    extra: dict[str, Tensor] | None = None,
) -> Path:
    """Write the model to `path`, or to several shards beside it; returns the file to open.

    `kind_of` a tensor's name and values is how it is stored; with `decoded` it is stored in float32, but with the
    values that reading it back would give. `architecture` replaces that of the model's family. `old` files have a
    matrix for each expert, and keys and values of a latent in one; `joined` ones have one stack for gate and up.
    `changes` to the metadata: a value, or None for a key that is to be left out. `extra` tensors are written too.
    """
    config = copy.deepcopy(model.config.get_text_config())
    # Sizes of the usual layer, beside those of single layers.
    config.allow_global_per_layer_attribute_access = True
    architecture = architecture or architecture_name(config)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=largest_part)
    numbers = {name: float(value) for name, value in model.state_dict().items() if ".act_fn.alpha_" in name}
    facts: dict[str, Any] = {
        f"xielu.{kind}": [value for name, value in numbers.items() if name.endswith(kind)]
        for kind in ("alpha_p", "alpha_n")
        if numbers
    }
    facts |= {f"{architecture}.{key}": value for key, value in metadata(config, architecture, old=old).items()}
    for key, value in {**facts, **tokenizer_metadata(), **(changes or {})}.items():
        add(writer, key, value)
    for name, tensor in [*tensors(model, config, architecture, old=old, joined=joined), *(extra or {}).items()]:
        values = tensor.float().contiguous().numpy()
        kind = kind_of(name, values)
        if kind is Kind.F32:
            writer.add_tensor(name, values)
        elif decoded:
            writer.add_tensor(name, gguf.quants.dequantize(blocks(values, kind), kind))
        else:
            writer.add_tensor(name, blocks(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))[0] if largest_part else path


def blocks(values: np.ndarray, kind: Kind) -> np.ndarray:
    """The values as blocks; random blocks of a kind that the package cannot quantize to."""
    try:
        return np.asarray(gguf.quants.quantize(values, kind))
    except NotImplementedError:
        *rows, columns = values.shape
        width = columns // gguf.GGML_QUANT_SIZES[kind][0]
        return sound_blocks(kind.name, math.prod(rows), width).numpy().reshape(*rows, -1)


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One pair of metadata, of the type that files have it in."""
    if value is None:
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def tensors(model: Any, config: Any, architecture: str, *, old: bool, joined: bool) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file, by its name there."""
    same = SAME_NAMES.get(architecture, architecture)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == same)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    others = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads, suffixes = config.num_attention_heads, (".weight", ".bias")
    state = {
        name.replace("model.language_model.", "model."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if not name.startswith("model.vision_")
    }
    if config.tie_word_embeddings and architecture != "gpt2":
        del state["lm_head.weight"]
    for name, tensor in rope_tensors(config):
        yield name, tensor
    for stack, target in (("altup_projections", "altup_proj"), ("altup_unembed_projections", "altup_unembd_proj")):
        if one_by_one := [state.pop(name) for name in list(state) if f".{stack}." in name]:
            yield f"{target}.weight", torch.stack(one_by_one)
    for in_memory, tensor in state.items():
        name = published_name(in_memory, architecture)
        at, part = "", name
        if ".layers." in name or ".h." in name or ".blocks." in name:
            index, part = split_layer(name)
            at = f"blk.{index}."
        module, _, kind = part.rpartition(".")
        if architecture == "falcon-h1":
            tensor = multiplied(part, tensor, config)
        changed = changed_tensors(at, part, tensor, config, architecture)
        if changed is None:
            changed = delta_tensors(at, part, tensor, config, architecture, old=old)
        if changed is not None:
            yield from changed.items()
            continue
        if part.startswith("mlp.act_fn."):
            # In the metadata.
            continue
        if part.startswith("ffn.experts.mlp."):
            which = {"w1": "gate", "v1": "up", "w2": "down"}[kind]
            stack = tensor.view(config.ffn_config.moe_num_experts, -1, tensor.shape[1])
            yield f"{at}ffn_{which}_exps.weight", stack.transpose(1, 2) if which == "down" else stack
        elif kind in ("e_score_correction_bias", "expert_bias"):
            yield f"{at}exp_probs_b.bias", tensor.flatten()
        elif module.startswith(EXPERTS) or part.startswith(EXPERTS):
            yield from expert_tensors(at, part.split("experts.")[1], tensor, architecture, old=old, joined=joined)
        elif part in WHOLE:
            yield f"{at}{WHOLE[part]}", tensor
        elif module == "transformer.word_embeddings_layernorm":
            yield f"token_embd_norm.{kind}", tensor
        elif module in ROUTERS:
            yield f"{at}ffn_gate_inp.{kind}", tensor
        elif part == SHARED_GATE:
            yield f"{at}ffn_gate_inp_shexp.weight", tensor[0]
        elif "_layernorm.norms." in part:
            which, _, head = module.partition("_layernorm.norms.")
            if head == "0":
                of_heads = [value for other, value in state.items() if other.startswith(name.removesuffix("0.weight"))]
                yield f"{at}attn_{which[-1]}_norm.weight", torch.stack(of_heads)
        elif part == "shared_mlp.input_linear.weight" and architecture == "granite-swa":
            yield f"{at}ffn_up_shexp.weight", tensor
        elif part == "shared_mlp.input_linear.weight":
            suffix = "_shexp" if config.num_local_experts else ""
            for target, half in zip(("gate", "up"), tensor.chunk(2), strict=True):
                yield f"{at}ffn_{target}{suffix}.weight", half
        elif part == "shared_mlp.output_linear.weight":
            yield f"{at}ffn_down{'_shexp' if config.num_local_experts else ''}.weight", tensor
        elif part == "self_attn.kv_b_proj.weight" and architecture in LATENT and not old:
            both = tensor.view(heads, config.qk_nope_head_dim + config.v_head_dim, -1)
            keys, values = both.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
            yield f"{at}attn_k_b.weight", keys.transpose(1, 2)
            yield f"{at}attn_v_b.weight", values
        else:
            # Dense layers of models with experts have none of the expert tensors.
            bare = name.removeprefix("transformer.")
            found = next(filter(None, (table.get_name(one, suffixes) for one in (name, bare))), None)
            found = found or others.get_name(name, suffixes)
            assert found is not None, name
            if architecture in PERMUTED and ".attn_q." in found:
                tensor = permuted(tensor, heads)
            if architecture in PERMUTED and ".attn_k." in found:
                tensor = permuted(tensor, kv_head_count(config))
            if architecture == "gpt2" and kind == "weight" and tensor.dim() == 2 and "_embd" not in found:
                tensor = tensor if found == "output.weight" else tensor.T
            if ".query_key_value." in name and architecture != "bailingmoe2":
                # From queries, key and value group by group to all queries, all keys, all values.
                groups = kv_head_count(config)
                rows = tensor.view(groups, heads // groups + 2, -1, *tensor.shape[1:])
                tensor = torch.cat([part.flatten(0, 2) for part in (rows[:, :-2], rows[:, -2:-1], rows[:, -1:])])
            if architecture in PLUS_ONE and found.endswith("norm.weight") and found not in NOT_PLUS_ONE[architecture]:
                tensor = tensor.float() + 1
            yield found, tensor
            if architecture == "muse-glimmer" and ".attn_q." in found:
                # The factor on the scores, as the weight of a norm.
                yield f"{at}attn_q_norm.weight", torch.full((config.head_dim,), config.qk_scale_factor)
                yield f"{at}attn_k_norm.weight", torch.ones(config.head_dim)


def split_layer(name: str) -> tuple[str, str]:
    """The number of the layer, and the rest of the name."""
    index, _, part = name.replace(".h.", ".layers.").replace(".blocks.", ".layers.").split(".layers.")[1].partition(".")
    return index, part


def expert_tensors(
    at: str, what: str, tensor: Tensor, architecture: str, *, old: bool, joined: bool
) -> Iterator[tuple[str, Tensor]]:
    """One of the packed stacks, with gate and up separate, each matrix as (out, in)."""
    kind = "bias" if what.endswith("_bias") else "weight"
    if architecture in ("gpt-oss", "llama4") and kind == "weight":
        tensor = tensor.transpose(1, 2)
    if what.startswith("down_proj"):
        parts = {"down": tensor}
    elif architecture == "gpt-oss":
        parts = {"gate": tensor[:, 0::2], "up": tensor[:, 1::2]}
    elif joined or architecture == "gemma4":
        parts = {"gate_up": tensor}
    else:
        parts = dict(zip(("gate", "up"), tensor.chunk(2, dim=1), strict=True))
    for part, stack in parts.items():
        if old:
            for expert, matrix in enumerate(stack):
                yield f"{at}ffn_{part}.{expert}.{kind}", matrix
        else:
            yield f"{at}ffn_{part}_exps.{kind}", stack


def rope_tensors(config: Any) -> Iterator[tuple[str, Tensor]]:
    """Tables of RoPE divisors: those of Llama 3.1's rule, and LongRoPE's two lists."""
    rope = getattr(config, "rope_parameters", None) or {}
    if (full := rope.get("full_attention") or {}).get("rope_type") == "proportional":
        size = config.per_layer_config["full_attention"].head_dim // 2
        rotating = int(size * full["partial_rotary_factor"])
        yield "rope_freqs.weight", torch.tensor([1.0] * rotating + [1e30] * (size - rotating))
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", torch.tensor(rope["long_factor"])
        yield "rope_factors_short.weight", torch.tensor(rope["short_factor"])
    if rope.get("rope_type") == "llama3":
        size, original = head_size(config), rope["original_max_position_embeddings"]
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        divisors = []
        for index in range(0, size, 2):
            wavelength = 2 * math.pi * rope["rope_theta"] ** (index / size)
            if wavelength < original / high:
                divisors.append(1.0)
            elif wavelength > original / low:
                divisors.append(factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                divisors.append(1 / ((1 - smooth) / factor + smooth))
        yield "rope_freqs.weight", torch.tensor(divisors)


def permuted(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from (j, j + half) to (2j, 2j + 1)."""
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
