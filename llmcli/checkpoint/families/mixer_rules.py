"""Rules of model families for layers that remember the text in a state: for each layer, further fields of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.layer_rules import FULL, LINEAR, SLIDING
from llmcli.checkpoint.families.styles import LAYER_NORM
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, MlstmConfig, RglruConfig, Rwkv4Config


def no_scales(keys: ConfigKeys) -> dict[str, tuple[tuple[int, float], ...]]:
    """Parameters are read as they are."""
    return {}


def falcon_h1_scales(keys: ConfigKeys) -> dict[str, tuple[tuple[int, float], ...]]:
    """Falcon-H1: factors on inputs and outputs of linear layers, as factors of their weights.

    They are those of maximal update parametrization (Yang et al. 2022, arXiv:2203.03466).
    """
    hidden, width = keys.integer("hidden_size"), keys.integer("intermediate_size")
    heads = keys.integer("num_attention_heads")
    size = keys.optional_integer("head_dim") or hidden // heads
    queries, kv = heads * size, (keys.optional_integer("num_key_value_heads") or heads) * size
    mixer = falcon_h1_layers(keys, [FULL])[0]["beside"]
    inner, shared = mixer.heads * mixer.head_dim, mixer.groups * mixer.state
    read, key = keys.number("attention_in_multiplier"), keys.number("key_multiplier")
    gate, down = _factors(keys, "mlp_multipliers", 2)
    parts = tuple(zip((inner, inner, shared, shared, mixer.heads), _factors(keys, "ssm_multipliers", 5), strict=True))
    outputs = {"o_proj": keys.number("attention_out_multiplier"), "out_proj": keys.number("ssm_out_multiplier")}
    entry = keys.number("ssm_in_multiplier")
    return {
        "self_attn.q_proj.weight": ((queries, read),),
        "self_attn.k_proj.weight": ((kv, read * key),),
        "self_attn.k_proj.bias": ((kv, key),),
        "self_attn.v_proj.weight": ((kv, read),),
        "mamba.in_proj.weight": tuple((rows, entry * factor) for rows, factor in parts),
        "mamba.in_proj.bias": parts,
        "mlp.gate_proj.weight": ((width, gate),),
        "mlp.gate_proj.bias": ((width, gate),),
        **{f"self_attn.o_proj.{kind}": ((hidden, outputs["o_proj"]),) for kind in ("weight", "bias")},
        **{f"mamba.out_proj.{kind}": ((hidden, outputs["out_proj"]),) for kind in ("weight", "bias")},
        **{f"mlp.down_proj.{kind}": ((hidden, down),) for kind in ("weight", "bias")},
    }


def _factors(keys: ConfigKeys, name: str, count: int) -> list[float]:
    """A list of `count` numbers; ones if it is absent or null."""
    listed = keys.get(name)
    if listed is None:
        return [1.0] * count
    if not isinstance(listed, list) or len(listed) != count:
        raise CheckpointError(f"{keys.path} has {name!r} = {in_short(listed)}; {count} numbers are needed.")
    return [ConfigKeys({name: item}, keys.path).number(name) for item in listed]


# Layer types if the file does not list them; one name for each of `layers` layers.


def all_linear(keys: ConfigKeys, layers: int) -> list[str]:
    """Mamba: every layer is recurrent."""
    return [LINEAR] * layers


def listed_attention(keys: ConfigKeys, layers: int) -> list[str]:
    """Bamba: `attn_layer_indices` are the layers with attention."""
    listed = keys.integers("attn_layer_indices") or []
    return [FULL if index in listed else LINEAR for index in range(layers)]


def periodic_attention(keys: ConfigKeys, layers: int) -> list[str]:
    """Jamba: attention in every n-th layer, at an offset."""
    period, offset = keys.integer("attn_layer_period"), keys.integer("attn_layer_offset", minimum=0)
    return [FULL if index % period == offset else LINEAR for index in range(layers)]


def kimi_types(keys: ConfigKeys, layers: int) -> list[str]:
    """Kimi-Linear: layers with attention are listed, counted from 1; by default every fourth but the first."""
    listed = _linear_keys(keys).integers("full_attn_layers")
    if listed is None:
        return [FULL if index and index % 4 == 0 else LINEAR for index in range(layers)]
    return [FULL if index + 1 in listed else LINEAR for index in range(layers)]


def last_of_group_full(keys: ConfigKeys, layers: int) -> list[str]:
    """Ling 3: attention in the last layer of each group."""
    size = keys.integer("layer_group_size")
    return [LINEAR if (index + 1) % size else FULL for index in range(layers)]


def _linear_keys(keys: ConfigKeys) -> ConfigKeys:
    """Kimi-Linear: the section on recurrent layers, or the same keys as transformers writes them."""
    section = keys.section("linear_attn_config")
    if section is not None:
        return section
    own = {
        "head_dim": keys.get("linear_head_dim"),
        "num_heads": keys.get("linear_num_heads"),
        "short_conv_kernel_size": keys.get("linear_conv_kernel_dim"),
    }
    return ConfigKeys(own, keys.path)


def griffin_types(keys: ConfigKeys, layers: int) -> list[str]:
    """RecurrentGemma: a list of "recurrent" and "attention", with a window, is repeated."""
    listed = keys.get("block_types")
    if not isinstance(listed, list) or not listed or not {str(kind) for kind in listed} <= {"recurrent", "attention"}:
        raise CheckpointError(
            f"{keys.path} has block_types = {in_short(listed)}; a list of recurrent and attention is needed."
        )
    return [SLIDING if listed[index % len(listed)] == "attention" else LINEAR for index in range(layers)]


# Further fields of `LayerConfig`: for each layer, given the layer types.


def mamba2_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Mamba-2: layers without feed-forward networks."""
    mixer = Mamba2Config(
        heads=keys.integer("num_heads"),
        head_dim=keys.integer("mamba_head_dim"),
        groups=_groups(keys, "n_groups", keys.integer("num_heads")),
        state=keys.integer("state_size"),
        conv_width=keys.integer("conv_kernel"),
        conv_bias=keys.flag("use_conv_bias"),
        bias=keys.flag("use_bias"),
        **_step_limits(keys),
    )
    return [{"mixer": mixer, "parts": "mixer"} for _ in kinds]


def mamba_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Mamba: layers without feed-forward networks."""
    return [{"mixer": _mamba(keys), "parts": "mixer"} for _ in kinds]


def falcon_mamba_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Falcon Mamba: like Mamba, with norms without weights."""
    mixer = replace(_mamba(keys), norms="weightless", norms_eps=keys.not_negative("mixer_rms_eps"))
    return [{"mixer": mixer, "parts": "mixer"} for _ in kinds]


def jamba_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Jamba: Mamba with norms in place of attention, in most layers."""
    mixer = replace(_mamba(keys), norms="weights")
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def granite_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Granite hybrids and Bamba: Mamba-2 in place of attention, in most layers."""
    if LINEAR not in kinds:
        return [{} for _ in kinds]
    if keys.text("hidden_act") != "silu":
        raise UnsupportedModelError(
            f"{keys.path} has hidden_act = {keys.get('hidden_act')!r}; recurrent layers have silu only."
        )
    mixer = _hybrid_mamba2(keys, keys.integer("mamba_expand") * keys.integer("hidden_size"))
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def nemotron_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Nemotron-H: each layer is Mamba-2, attention or a feed-forward network alone."""
    mixer = Mamba2Config(
        heads=keys.integer("mamba_num_heads"),
        head_dim=keys.integer("mamba_head_dim"),
        groups=_groups(keys, "n_groups", keys.integer("mamba_num_heads")),
        state=keys.integer("ssm_state_size"),
        conv_width=keys.integer("conv_kernel"),
        conv_bias=keys.flag("use_conv_bias"),
        bias=keys.flag("mamba_proj_bias"),
    )
    by_kind: dict[str, dict[str, Any]] = {LINEAR: {"mixer": mixer, "parts": "mixer"}, FULL: {"parts": "mixer"}}
    return [by_kind.get(kind, {"parts": "feed_forward"}) for kind in kinds]


def falcon_h1_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Falcon-H1: Mamba-2 beside attention in every layer."""
    multiple = keys.integer("mamba_expand") * keys.integer("hidden_size")
    mixer = _hybrid_mamba2(keys, keys.optional_integer("mamba_d_ssm") or multiple)
    norm = "norm_first" if keys.flag("mamba_norm_before_gate") else "gate_first"
    mixer = replace(mixer, norm=norm if keys.flag("mamba_rms_norm") else None)  # type: ignore[arg-type]
    return [{"beside": mixer} for _ in kinds]


def griffin_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """RecurrentGemma: RG-LRU in place of attention, in most layers."""
    blocks = keys.integer("num_attention_heads")
    width = keys.optional_integer("lru_width") or keys.integer("hidden_size")
    if width % blocks:
        raise CheckpointError(f"{keys.path}: lru_width {width} is not a multiple of {blocks} blocks.")
    mixer = RglruConfig(width, blocks, keys.integer("conv1d_width"))
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def rwkv_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """RWKV-4: time mixing in place of attention, and channel mixing."""
    hidden = keys.integer("hidden_size")
    mixer = Rwkv4Config(keys.optional_integer("attention_hidden_size") or hidden, hidden)
    return [{"mixer": mixer, "channel_mixing": True} for _ in kinds]


def rwkv_extras(keys: ConfigKeys) -> dict[str, Any]:
    """RWKV-4: the first layer normalizes the embeddings."""
    return {"embed_norm": LAYER_NORM}


def xlstm_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """xLSTM: an mLSTM in place of attention; sizes of keys and values are shares of the hidden size."""
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    sizes = [int(hidden * keys.positive(f"{part}_dim_factor")) for part in ("qk", "v")]
    if any(size % heads or not size for size in sizes):
        raise CheckpointError(f"{keys.path}: {heads} heads cannot share {sizes[0]} keys and {sizes[1]} values evenly.")
    mixer = MlstmConfig(
        heads, sizes[0] // heads, sizes[1] // heads, keys.positive("gate_soft_cap"), keys.not_negative("eps")
    )
    return [{"mixer": mixer} for _ in kinds]


def xlstm_extras(keys: ConfigKeys) -> dict[str, Any]:
    """xLSTM: a cap on logits, and a feed-forward network whose size is rounded up to a multiple."""
    multiple = keys.integer("ffn_round_up_to_multiple_of")
    size = keys.integer("hidden_size") * keys.positive("ffn_proj_factor")
    return {
        "logit_softcap": keys.positive("output_logit_soft_cap"),
        # As the model's own code does it, with a number that need not be whole.
        "intermediate_size": int((size + multiple - 1) // multiple * multiple),
    }


def kimi_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Kimi-Linear: delta attention in place of latent attention, in most layers."""
    own = _linear_keys(keys)
    return _kimi(own, kinds, rank=own.integer("head_dim"), safe_decay=None)


def bailing_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Ling 3: like Kimi-Linear, with bounded decays, and one projection for decays and gates each."""
    safe = keys.number("kda_lower_bound") if keys.flag("kda_safe_gate") else None
    own = {
        "head_dim": keys.get("linear_head_dim"),
        "num_heads": keys.get("num_attention_heads"),
        "short_conv_kernel_size": keys.get("short_conv_kernel_size"),
    }
    return _kimi(ConfigKeys(own, keys.path), kinds, rank=None, safe_decay=safe)


def _kimi(keys: ConfigKeys, kinds: list[str], *, rank: int | None, safe_decay: float | None) -> list[dict[str, Any]]:
    heads, size = keys.integer("num_heads"), keys.integer("head_dim")
    mixer = DeltaConfig(
        heads,
        heads,
        size,
        size,
        keys.integer("short_conv_kernel_size"),
        decay="channel",
        safe_decay=safe_decay,
        gate="sigmoid",
        gate_rank=rank,
    )
    return [{"mixer": mixer} if kind == LINEAR else {} for kind in kinds]


def _mamba(keys: ConfigKeys) -> MambaConfig:
    hidden = keys.integer("hidden_size")
    # transformers reads the width that the file states, although it always writes the multiple.
    width = keys.optional_integer("mamba_width") or keys.integer("mamba_expand") * hidden
    rank = keys.get("mamba_dt_rank")
    return MambaConfig(
        width=width,
        state=keys.integer("mamba_d_state"),
        step_rank=math.ceil(hidden / 16) if rank == "auto" else keys.integer("mamba_dt_rank"),
        conv_width=keys.integer("mamba_d_conv"),
        conv_bias=keys.flag("mamba_conv_bias"),
        bias=keys.flag("mamba_proj_bias"),
    )


def _hybrid_mamba2(keys: ConfigKeys, inner: int) -> Mamba2Config:
    """Mamba-2 of `inner` channels, by the keys of Bamba's descendants."""
    heads = keys.integer("mamba_n_heads")
    size = inner // heads if keys.get("mamba_d_head") == "auto" else keys.integer("mamba_d_head")
    if heads * size != inner:
        raise CheckpointError(f"{keys.path}: {heads} Mamba heads of {size} channels are not {inner} channels.")
    return Mamba2Config(
        heads=heads,
        head_dim=size,
        groups=_groups(keys, "mamba_n_groups", heads),
        state=keys.integer("mamba_d_state"),
        conv_width=keys.integer("mamba_d_conv"),
        conv_bias=keys.flag("mamba_conv_bias"),
        bias=keys.flag("mamba_proj_bias"),
        **_step_limits(keys),
    )


def _groups(keys: ConfigKeys, name: str, heads: int) -> int:
    """The number of groups that share `heads` heads evenly."""
    groups = keys.integer(name)
    if heads % groups:
        raise CheckpointError(f"{keys.path}: {heads} Mamba heads cannot be shared by {groups} groups evenly.")
    return groups


def _step_limits(keys: ConfigKeys) -> dict[str, Any]:
    """Limits of the step size: a pair of numbers, of which the second may be infinite."""
    limits = keys.get("time_step_limit")
    if limits is None:
        return {}
    # JSON has no infinity: transformers writes an object, Python a bare word.
    listed = limits if isinstance(limits, list) else []
    pair = [math.inf if item == {"__float__": "Infinity"} else item for item in listed]
    if len(pair) != 2 or not all(isinstance(item, int | float) and item >= 0 for item in pair) or pair[0] == math.inf:
        raise CheckpointError(
            f"{keys.path} has {keys.spelled('time_step_limit')!r} = {in_short(limits)}; two numbers from 0 are needed."
        )
    return {"min_step": float(pair[0]), "max_step": None if pair[1] == math.inf else float(pair[1])}
