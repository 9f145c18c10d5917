"""Rules of DeepSeek-V4: layers with compressed blocks, two rotations, and experts that a table chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.expert_rules import make_experts
from llmcli.checkpoint.families.layer_rules import SLIDING
from llmcli.checkpoint.families.rope_keys import RopeRules, rope_config
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import ExpertsConfig, HyperConfig, KeyIndexConfig, RopeConfig
from llmcli.model.config import RouterScore
from llmcli.model.shared_row_config import BlocksConfig, SharedRowConfig

SPARSE_BLOCKS, HEAVY_BLOCKS = "compressed_sparse_attention", "heavily_compressed_attention"
# What `compress_ratios` calls them.
_RATIOS = {0: SLIDING, 4: SPARSE_BLOCKS, 128: HEAVY_BLOCKS}
_OLD_RATES = {SPARSE_BLOCKS: "compress_rate_csa", HEAVY_BLOCKS: "compress_rate_hca"}
_SCORES: dict[str | None, RouterScore] = {"sqrtsoftplus": "sqrt_softplus", "sigmoid": "sigmoid"}


def deepseek_v4_types(keys: ConfigKeys, layers: int) -> list[str]:
    """The types that the file lists, by name or by the tokens of a block; layers behind those that are run are cut."""
    listed = keys.values.get("layer_types")
    if isinstance(listed, list):
        return [str(kind) for kind in listed[:layers]]
    ratios = keys.integers("compress_ratios")
    if ratios is None:
        return [HEAVY_BLOCKS if index < 2 or index % 2 == 0 else SPARSE_BLOCKS for index in range(layers)]
    if set(ratios) - set(_RATIOS):
        raise UnsupportedModelError(
            f"{keys.path} has compress_ratios = {in_short(ratios)}; supported are {', '.join(map(str, _RATIOS))}."
        )
    return [_RATIOS[ratio] for ratio in ratios[:layers]]


def deepseek_v4_layer_extras(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Every layer has a window; blocks, their index and the rotation depend on the layer's type."""
    index = KeyIndexConfig(keys.integer("index_n_heads"), keys.integer("index_head_dim"), keys.integer("index_topk"))
    sliding, compressed = _rope(keys, "main", keys.number("rope_theta")), None
    if set(kinds) - {SLIDING}:
        compressed = _rope(keys, "compress", keys.number("compress_rope_theta"))
    if compressed is not None and SPARSE_BLOCKS in kinds and index.size < compressed.rotary_dim:
        raise CheckpointError(
            f"{keys.path}: index_head_dim must be at least the {compressed.rotary_dim} rotated values."
        )
    window = keys.integer("sliding_window")

    def of_layer(kind: str) -> dict[str, Any]:
        if kind == SLIDING:
            return {"window": window, "rope": sliding}
        blocks = BlocksConfig(_rate(keys, kind), overlapping=kind == SPARSE_BLOCKS)
        return {"window": window, "rope": compressed, "blocks": blocks, "index": index if blocks.overlapping else None}

    return [of_layer(kind) for kind in kinds]


def _rate(keys: ConfigKeys, kind: str) -> int:
    """Tokens of a block in layers of a type."""
    if keys.values.get(_OLD_RATES[kind]) is not None:
        return keys.integer(_OLD_RATES[kind])
    rates = keys.section("compress_rates") or ConfigKeys({}, keys.path)
    return replace(rates, defaults={SPARSE_BLOCKS: 4, HEAVY_BLOCKS: 128}).integer(kind)


def _rope(keys: ConfigKeys, label: str, theta: float) -> RopeConfig:
    """The rotation with the label "main" or "compress": of that object, or of one whose scaling is for blocks only."""
    found = keys.section("rope_scaling") or keys.section("rope_parameters") or ConfigKeys({}, keys.path)
    size, context = keys.integer("head_dim"), keys.integer("max_position_embeddings")
    both = all(isinstance(found.get(name), dict) for name in ("main", "compress"))
    nested = found.section(label) if both else None
    own: dict[str, object]
    if nested is not None:
        own = dict(nested.values)
    else:
        flat = {key: value for key, value in found.values.items() if key not in ("main", "compress")}
        own = {**(flat if label == "compress" else {}), "rope_theta": theta, "partial_rotary_factor": _share(keys)}
        if (own.get("rope_type") or own.get("type")) == "yarn":
            # The released code does not scale cosines and sines.
            own.setdefault("attention_factor", 1.0)
    own.setdefault("partial_rotary_factor", 1.0)
    return rope_config(
        ConfigKeys({"rope_parameters": own}, keys.path), RopeRules(), head_dim=size, context_length=context,
        layer_type=SLIDING,
    )  # fmt: skip


def _share(keys: ConfigKeys) -> float:
    """The share of a head that is rotated."""
    if keys.get("partial_rotary_factor") is not None:
        return keys.positive("partial_rotary_factor")
    rotated = keys.optional_integer("qk_rope_head_dim")
    return 64 / 512 if rotated is None else rotated / keys.integer("head_dim")


def deepseek_v4_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Every layer; in the first ones a table has the experts of each token. Clamped activations, a shared expert."""
    score = _SCORES.get(keys.text("scoring_func"))
    if score is None:
        raise UnsupportedModelError(
            f"{keys.path} scores experts by {keys.text('scoring_func')!r}; sqrtsoftplus and sigmoid are known."
        )
    assert score in get_args(RouterScore)
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score=score,
        normalized=True,
        scale=keys.number("routed_scaling_factor"),
        selection_bias=True,
        limit=keys.positive("swiglu_limit"),
        shared_size=keys.integer("moe_intermediate_size"),
    )
    by_token = replace(experts, selection_bias=False, by_token=True)
    return [by_token if hashed else experts for hashed in _by_token(keys, layers)]


def _by_token(keys: ConfigKeys, layers: int) -> list[bool]:
    """Which layers have a table of experts."""
    listed = keys.get("mlp_layer_types")
    if listed is None:
        count = keys.optional_integer("num_hash_layers", minimum=0)
        return [index < (3 if count is None else count) for index in range(layers)]
    if not isinstance(listed, list) or len(listed) < layers or set(map(str, listed)) - {"hash_moe", "moe"}:
        raise CheckpointError(f"{keys.path}: mlp_layer_types must say hash_moe or moe for each of {layers} layers.")
    return [kind == "hash_moe" for kind in listed[:layers]]


def deepseek_v4_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Attention with one row for all heads, and hyper-connections."""
    shared = SharedRowConfig(
        query_rank=keys.integer("q_lora_rank"), groups=keys.integer("o_groups"), group_rank=keys.integer("o_lora_rank")
    )
    heads = keys.integer("num_attention_heads")
    if heads % shared.groups:
        raise CheckpointError(f"{keys.path}: {heads} attention heads cannot form {shared.groups} equal o_groups.")
    hyper = HyperConfig(keys.integer("hc_mult"), keys.integer("hc_sinkhorn_iters"), keys.not_negative("hc_eps"))
    return {"shared_row": shared, "hyper": hyper, "num_kv_heads": 1}
