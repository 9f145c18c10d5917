"""Rules of model families for experts: for each layer its mixture, or None for a dense feed-forward network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import ClampedGLU, ExpertsConfig


def mixtral_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Mixtral: every layer; normalized weights."""
    return [make_experts(keys, "intermediate_size", normalized=True)] * layers


def olmoe_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """OLMoE: every layer; weights are normalized if `norm_topk_prob` is set."""
    return [make_experts(keys, "intermediate_size", normalized=keys.flag("norm_topk_prob"))] * layers


def qwen_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Qwen 2 and 3: every `decoder_sparse_step`-th layer except `mlp_only_layers`; Qwen 2 has a gated shared expert."""
    shared = keys.optional_integer("shared_expert_intermediate_size", minimum=0) or 0
    experts = make_experts(
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
    return [make_experts(keys, "intermediate_size", score="softmax_of_chosen", shared_size=shared)] * layers


def ernie_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Ernie 4.5: softmax, with a bias that affects only the choice; layers from one to another, at an interval."""
    shared = keys.optional_integer("moe_num_shared_experts", minimum=0) or 0
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        normalized=True,
        selection_bias=True,
        float32_router=True,
        shared_size=shared * keys.integer("moe_intermediate_size"),
    )
    first, interval = keys.integer("moe_layer_start_index", minimum=0), keys.integer("moe_layer_interval")
    last = layers - 1 if keys.get("moe_layer_end_index") == -1 else keys.integer("moe_layer_end_index", minimum=0)
    return [experts if first <= index <= last and (index + 1) % interval == 0 else None for index in range(layers)]


def minimax_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """MiniMax-M2: every layer; sigmoid scores, and a bias that affects only the choice."""
    _check_scores(keys, "sigmoid")
    return [make_experts(keys, "intermediate_size", score="sigmoid", selection_bias=True, normalized=True)] * layers


def mellum_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Mellum: like Qwen 3, in the layers that `mlp_layer_types` lists."""
    experts = make_experts(keys, "moe_intermediate_size", normalized=keys.flag("norm_topk_prob"))
    return [experts if sparse else None for sparse in _sparse_layers(keys, layers, first=0)]


def hunyuan_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Hunyuan: every layer; softmax, normalized, and a shared expert. Lists state numbers for each layer."""

    size = keys.integer("intermediate_size")

    def of_layer(index: int) -> ExpertsConfig:
        one: dict[str, object] = {"intermediate_size": size}
        for key in ("num_experts", "num_experts_per_tok"):
            stated = keys.get(key)
            if isinstance(stated, list) and len(stated) < layers:
                raise CheckpointError(
                    f"{keys.path}: {keys.spelled(key)} must list a number for each of {layers} layers."
                )
            one[key] = stated[index] if isinstance(stated, list) else stated
        own = ConfigKeys(one, keys.path)
        return make_experts(own, "intermediate_size", normalized=True, float32_router=True, shared_size=size)

    return [of_layer(index) for index in range(layers)]


def afmoe_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """AFMoE: the router of DeepSeek-V3 without groups, computed in the model's own type; always normalized."""
    return _deepseek(
        keys,
        layers,
        grouped=False,
        first=keys.optional_integer("num_dense_layers", minimum=0) or 0,
        score="sigmoid",
        selection_bias=True,
        normalized=True,
        float32_router=False,
    )


def axk1_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """A.X K1: like DeepSeek-V3, and the output is normalized."""
    found = deepseek_v3_experts(keys, layers)
    return [None if experts is None else replace(experts, output_norm=True) for experts in found]


def kolibri_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Kolibri: every layer; chosen by the router's outputs plus a bias, weighted by a sigmoid of the outputs alone."""
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid_of_biased",
        normalized=keys.flag("norm_topk_prob"),
        float32_router=True,
        selection_bias=True,
        shared_size=keys.integer("shared_expert_intermediate_size"),
    )
    return [experts] * layers


def laguna_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Laguna: router outputs may be capped; sigmoid scores, a bias that affects only the choice, a shared expert."""
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid",
        router_softcap=keys.not_negative("moe_router_logit_softcapping") or None,
        selection_bias=True,
        normalized=True,
        scale=keys.number("moe_routed_scaling_factor"),
        shared_size=keys.integer("shared_expert_intermediate_size"),
    )
    return [experts if sparse else None for sparse in _sparse_layers(keys, layers, first=1)]


def cohere_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Cohere: weights of the chosen by softmax or sigmoid; shared experts are added to the others, or averaged."""
    score, how = keys.text("expert_selection_fn"), keys.text("shared_expert_combination_strategy")
    for key, value, known in (
        ("expert_selection_fn", score, ("softmax", "sigmoid")),
        ("shared_expert_combination_strategy", how, ("average", "sum")),
    ):
        if value not in known:
            raise UnsupportedModelError(f"{keys.path} has {key} = {value!r}; {' and '.join(known)} are known.")
    shared = keys.optional_integer("num_shared_experts", minimum=0) or 0
    # Half of each is their average, to the last bit.
    part = 0.5 if shared and how == "average" else 1.0
    experts = make_experts(
        keys,
        "intermediate_size",
        score="softmax_of_chosen" if score == "softmax" else "sigmoid_of_chosen",
        normalized=score == "sigmoid" and keys.flag("norm_topk_prob"),
        scale=part,
        shared_size=shared * keys.integer("intermediate_size"),
        shared_scale=part,
    )
    sparse = _sparse_layers(keys, layers, first=keys.integer("first_k_dense_replace", minimum=0))
    return [experts if has else None for has in sparse]


def phimoe_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Phi-3.5-MoE: every layer; two experts by sparse mixing."""
    if keys.integer("num_experts_per_tok") != 2:
        raise UnsupportedModelError(
            f"{keys.path} has num_experts_per_tok = {keys.get('num_experts_per_tok')}; sparse mixing chooses 2."
        )
    noise = keys.not_negative("router_jitter_noise")
    return [make_experts(keys, "intermediate_size", score="sparse_mixing", mixing_range=2 * noise)] * layers


def hy3_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Hy3: the router of DeepSeek-V3 without groups; weights are always normalized."""
    return _deepseek(keys, layers, grouped=False, first=1, score="sigmoid", selection_bias=True, normalized=True)


def flint_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Flint: sigmoid scores, a shared expert, and the first two layers dense by default."""
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid",
        normalized=keys.flag("norm_topk_prob"),
        float32_router=True,
        shared_size=keys.integer("shared_expert_intermediate_size"),
    )
    listed, step = keys.integers("mlp_only_layers"), keys.integer("decoder_sparse_step")
    dense = [0, 1] if listed is None and keys.get("mlp_only_layers") is None else listed or []
    return [None if index in dense or (index + 1) % step else experts for index in range(layers)]


def aria_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Aria: every layer; softmax over the chosen logits, and shared experts as one."""
    shared = keys.integer("moe_num_shared_experts", minimum=0) * keys.integer("intermediate_size")
    return [make_experts(keys, "intermediate_size", score="softmax_of_chosen", shared_size=shared)] * layers


def dbrx_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """DBRX: every layer; the weights are divided by their sum unless the norm is null."""
    normalized = keys.get("moe_normalize_expert_weights") is not None
    return [make_experts(keys, "intermediate_size", normalized=normalized)] * layers


def gpt_oss_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """gpt-oss: every layer; biases in router and experts, and a clamped GLU."""
    glu = ClampedGLU(keys.number("swiglu_alpha"), keys.positive("swiglu_limit"))
    experts = make_experts(keys, "intermediate_size", score="softmax_of_chosen", router_bias=True, bias=True, glu=glu)
    return [experts] * layers


def llama4_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Llama 4: every n-th layer; the routing weight multiplies the expert's input."""
    size = keys.integer("intermediate_size")
    experts = make_experts(keys, "intermediate_size", score="sigmoid_of_chosen", scales_input=True, shared_size=size)
    step = keys.integer("interleave_moe_layer_step")
    listed = keys.integers("moe_layers")
    chosen = range(step - 1, layers, step) if listed is None else listed
    return [experts if index in chosen else None for index in range(layers)]


def deepseek_v2_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """DeepSeek-V2: groups are ranked by their best expert; weights are not normalized."""
    method = keys.text("topk_method")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(f"{keys.path} chooses experts by {method!r}, which is not supported.")
    _check_scores(keys, "softmax")
    grouped = method == "group_limited_greedy"
    return _deepseek(keys, layers, grouped=grouped, score="softmax", group_score="best")


def deepseek_v3_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """DeepSeek-V3: sigmoid scores, a bias that affects only the choice, groups ranked by their best two experts."""
    _check_scores(keys, "sigmoid")
    return _deepseek(
        keys,
        layers,
        grouped=True,
        score="sigmoid",
        group_score="best_two",
        selection_bias=True,
        normalized=keys.flag("norm_topk_prob"),
    )


def mimo_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """MiMo-V2: the router of DeepSeek-V3; `moe_layer_freq` may list 1 for layers with experts."""
    _check_scores(keys, "sigmoid")
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        score="sigmoid",
        group_score="best_two",
        selection_bias=True,
        normalized=keys.flag("norm_topk_prob"),
        scale=1.0 if keys.get("routed_scaling_factor") is None else keys.number("routed_scaling_factor"),
        groups=keys.optional_integer("n_group") or 1,
        groups_chosen=keys.optional_integer("topk_group") or 1,
        float32_router=True,
    )
    listed = keys.integers("moe_layer_freq") if keys.get("mlp_layer_types") is None else None
    if listed is None:
        return [experts if sparse else None for sparse in _sparse_layers(keys, layers, first=1)]
    if len(listed) != layers or set(listed) - {0, 1}:
        raise CheckpointError(f"{keys.path}: moe_layer_freq must say 0 or 1 for each of {layers} layers.")
    return [experts if sparse else None for sparse in listed]


def mistral4_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Mistral 4: like DeepSeek-V3, with a softmax, without a bias, and with a router in the model's own type."""
    return _deepseek(
        keys,
        layers,
        grouped=True,
        score="softmax",
        group_score="best_two",
        normalized=keys.flag("norm_topk_prob"),
        float32_router=False,
    )


def _check_scores(keys: ConfigKeys, known: str) -> None:
    if keys.text("scoring_func") not in (None, known):
        raise UnsupportedModelError(f"{keys.path} scores experts by {keys.text('scoring_func')!r}; {known} is known.")


def _sparse_layers(keys: ConfigKeys, layers: int, *, first: int) -> list[bool]:
    """Which layers have experts: those that `mlp_layer_types` calls sparse, by default all from layer `first` on."""
    listed = keys.get("mlp_layer_types")
    if listed is None:
        return [index >= first for index in range(layers)]
    if (
        not isinstance(listed, list)
        or len(listed) != layers
        or not {str(kind) for kind in listed} <= {"dense", "sparse"}
    ):
        raise CheckpointError(f"{keys.path}: mlp_layer_types must say dense or sparse for each of {layers} layers.")
    return [kind == "sparse" for kind in listed]


def _deepseek(
    keys: ConfigKeys,
    layers: int,
    *,
    grouped: bool,
    first: int | None = None,
    float32_router: bool = True,
    **options: Any,
) -> list[ExpertsConfig | None]:
    if (keys.optional_integer("moe_layer_freq") or 1) != 1:
        raise UnsupportedModelError(f"{keys.path} has moe_layer_freq {keys.get('moe_layer_freq')}; only 1 is known.")
    shared = keys.optional_integer("n_shared_experts", minimum=0) or 0
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        scale=keys.number("routed_scaling_factor"),
        groups=(keys.optional_integer("n_group") or 1) if grouped else 1,
        groups_chosen=(keys.optional_integer("topk_group") or 1) if grouped else 1,
        float32_router=float32_router,
        shared_size=shared * keys.integer("moe_intermediate_size"),
        **options,
    )
    if first is None:
        first = keys.integer("first_k_dense_replace", minimum=0)
    return [experts if sparse else None for sparse in _sparse_layers(keys, layers, first=first)]


def gemma4_experts(keys: ConfigKeys, layers: int) -> list[ExpertsConfig | None]:
    """Gemma 4: experts beside the dense network of every layer, if `enable_moe_block` is set."""
    if not keys.flag("enable_moe_block"):
        return [None] * layers
    experts = make_experts(
        keys,
        "moe_intermediate_size",
        normalized=True,
        shared_size=keys.integer("intermediate_size"),
        router_scale=True,
        expert_scale=True,
        own_norms=True,
    )
    shared = keys.optional_integer("num_kv_shared_layers", minimum=0) or 0
    if not keys.flag("use_double_wide_mlp"):
        return [experts] * layers
    wide = replace(experts, shared_size=2 * experts.shared_size)
    return [experts if index < layers - shared else wide for index in range(layers)]


def make_experts(keys: ConfigKeys, size_key: str, **options: Any) -> ExpertsConfig:
    """The mixture with the file's numbers of experts, the size of one that `size_key` states, and `options`."""
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
