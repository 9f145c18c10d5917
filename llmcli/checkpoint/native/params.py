"""Translate the `params.json` of Mistral's and Meta's releases to keys of a Hugging Face `config.json`.

Values that the file omits are those that the model was published with.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.weight_file import shown
from llmcli.errors import CheckpointError, UnsupportedModelError

_REFUSED = {
    "kv_lora_rank": "latent attention",
    "moe_args": "the experts of Llama 4",
    "quantization_args": "weights quantized by Meta's own tools",
    "vision_chunk_size": "layers that attend to images",
}
# Unsupported keys that change what a model computes, in these files or in ones converted from a `config.json`, with the
# values besides null that change nothing.
_CHANGING: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping", "logits_soft_cap", "clip_qkv"), (0,)),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logit_scale", "logits_scaling"), (1,)),
    **dict.fromkeys(("qk_norm", "use_qk_norm", "use_biases", "attn_temperature_tuning"), (False,)),
    **dict.fromkeys(("rope_scaling", "rope_parameters", "attention_multiplier", "attention_chunk_size"), ({}, 0, -1)),
    **dict.fromkeys(("nope_layer_interval", "no_rope_layer_interval"), (0, -1)),
    "partial_rotary_factor": (1,),
}
_CHANGING_OF_EXPERTS: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("num_shared_experts", "first_k_dense_replace"), (0,)),
    **dict.fromkeys(("route_every_n", "num_expert_groups", "num_expert_groups_per_tok", "routed_scale"), (0, 1)),
}
# Contexts of Mistral 7B and Mixtral 8x7B, and of Llama 3, whose files omit them.
_MISTRAL_CONTEXT = 32768
_LLAMA3_CONTEXT = 8192


def is_meta(params: ConfigKeys) -> bool:
    """Whether the file is Meta's, which omits the feed-forward size because a formula gives it."""
    return "hidden_dim" not in params.values and "multiple_of" in params.values


def hf_keys(params: ConfigKeys, vocabulary: int) -> ConfigKeys:
    """The keys of an equivalent `config.json`; `vocabulary` is the number of rows of the embedding.

    Raises:
        UnsupportedModelError: the model has a feature that this program lacks.
        CheckpointError: missing or contradictory values, with their names in `params.json`.
    """
    _refuse_unsupported(params)
    heads = params.integer("n_heads")
    size = params.get("vocab_size")
    keys: dict[str, object] = {
        "hidden_size": params.integer("dim"),
        "num_hidden_layers": params.integer("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": params.optional_integer("n_kv_heads") or heads,
        "head_dim": params.optional_integer("head_dim"),
        "rms_norm_eps": params.number("norm_eps"),
        "hidden_act": params.text("activation") or "silu",
        # Llama 1 and 2 omit it: the tokenizer decides.
        "vocab_size": vocabulary if size in (None, -1) else params.integer("vocab_size"),
    }
    if "tied_embeddings" in params.values:
        keys["tie_word_embeddings"] = params.flag("tied_embeddings")
    return ConfigKeys(keys | (_meta_keys(params) if is_meta(params) else _mistral_keys(params)), params.path)


def _refuse_unsupported(params: ConfigKeys) -> None:
    what = next((what for key, what in _REFUSED.items() if params.get(key) not in (None, 0, -1)), None)
    if params.text("model_type") not in (None, "transformer"):
        what = f"the type {shown(str(params.get('model_type')))}"
    elif params.get("causal") is False:
        what = "attention to later tokens"
    if what is not None:
        raise UnsupportedModelError(
            f"{params.path} describes a model with {what}, which is not supported in this layout."
        )
    _refuse_values(params, _CHANGING, "")


def _refuse_values(keys: ConfigKeys, allowed: Mapping[str, tuple[object, ...]], prefix: str) -> None:
    for key, values in allowed.items():
        if (value := keys.get(key)) is not None and value not in values:
            raise UnsupportedModelError(
                f"{keys.path} has {prefix}{key} = {shown(str(value))}, which is not supported in this layout; use a "
                "Hugging Face version of the model."
            )


def _meta_keys(params: ConfigKeys) -> dict[str, object]:
    theta = params.optional_positive("rope_theta") or 1e4
    keys: dict[str, object] = {
        "model_type": "llama",
        "intermediate_size": _feed_forward_size(params),
        "rope_theta": theta,
        "max_position_embeddings": params.optional_integer("max_seq_len") or _meta_context(params, theta),
    }
    if params.flag("use_scaled_rope"):
        # Llama 3.2 1B and 3B use a larger factor than 3.1 and 3.3.
        small = params.integer("dim") in (2048, 3072)
        keys["rope_parameters"] = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": params.optional_positive("rope_scaling_factor") or (32.0 if small else 8.0),
            "low_freq_factor": 1.0,
            "high_freq_factor": params.optional_positive("rope_high_freq_factor") or 4.0,
            "original_max_position_embeddings": _LLAMA3_CONTEXT,
        }
    return keys


def _feed_forward_size(params: ConfigKeys) -> int:
    """Two thirds of four times the width, times `ffn_dim_multiplier`, rounded up to a multiple of `multiple_of`."""
    size = 8 * params.integer("dim") // 3
    factor = params.optional_positive("ffn_dim_multiplier")
    size = size if factor is None else int(factor * size)
    multiple = params.integer("multiple_of")
    return multiple * -(-size // multiple)


def _meta_context(params: ConfigKeys, theta: float) -> int:
    """The context length, which the file omits, from values that differ between the generations."""
    if params.flag("use_scaled_rope"):
        return 131072
    if theta > 1e4:
        # Code Llama has a larger theta than Llama 3.
        return 16384 if theta == 1e6 else _LLAMA3_CONTEXT
    # The largest Llama 1 has the epsilon of Llama 2, but unlike Llama 2 70B it has no shared key-value heads.
    first = params.number("norm_eps") < 5e-6 or (params.get("dim") == 8192 and params.get("n_kv_heads") is None)
    return 2048 if first else 4096


def _mistral_keys(params: ConfigKeys) -> dict[str, object]:
    context = params.optional_integer("max_position_embeddings") or params.optional_integer("max_seq_len")
    keys: dict[str, object] = {
        "model_type": "mistral",
        "intermediate_size": params.integer("hidden_dim"),
        "max_position_embeddings": context or _MISTRAL_CONTEXT,
        "rope_parameters": _rotation(params),
        **_windows(params),
    }
    experts = params.section("moe")
    if experts is not None:
        _refuse_values(experts, _CHANGING_OF_EXPERTS, "moe.")
        _refuse_values(experts, {"expert_hidden_dim": (params.get("hidden_dim"),)}, "moe.")
        if params.get("llama_4_scaling"):
            raise UnsupportedModelError(
                f"{params.path} describes experts together with llama_4_scaling, which is not supported in this "
                "layout; use a Hugging Face version of the model."
            )
        keys["model_type"] = "mixtral"
        keys["num_local_experts"] = experts.integer("num_experts")
        keys["num_experts_per_tok"] = experts.integer("num_experts_per_tok")
    elif params.get("llama_4_scaling"):
        keys["model_type"] = "ministral3"
    quantization = params.section("quantization")
    if quantization is not None:
        keys["quantization_config"] = _quantization(quantization)
    return keys


def _rotation(params: ConfigKeys) -> dict[str, object]:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": params.optional_positive("rope_theta") or 1e4}
    yarn, scaling = params.section("yarn"), params.section("llama_4_scaling")
    original = "original_max_position_embeddings"
    if yarn is not None:
        rope["rope_type"] = "yarn"
        rope["factor"] = yarn.positive("factor")
        rope[original] = yarn.integer(original)
        rope["beta_fast"] = yarn.optional_positive("beta")
        rope["beta_slow"] = yarn.optional_positive("alpha")
        if yarn.get("apply_scale") is False:
            rope["attention_factor"] = 1.0
    if scaling is not None:
        interval = scaling.integer(original)
        if rope.setdefault(original, interval) != interval:
            raise CheckpointError(f"{params.path}: yarn and llama_4_scaling start from different contexts.")
        rope["llama_4_scaling_beta"] = scaling.number("beta")
    return rope


def _windows(params: ConfigKeys) -> dict[str, object]:
    """`sliding_window` and `layer_types`, from one window for all layers or a repeated list of sizes and nulls."""
    layers, given = params.integer("n_layers"), params.get("sliding_window")
    if isinstance(given, str) and given.isdecimal() and len(given) < 12:
        given = int(given)
    pattern = given if isinstance(given, list) and given else [given]
    sizes = {size for size in pattern if size is not None} if all(_is_window(size) for size in pattern) else {0, 1}
    if len(sizes) > 1 or layers % len(pattern):
        raise CheckpointError(
            f"{params.path} has 'sliding_window' = {shown(str(given))}; one size for some or all layers is needed."
        )
    kinds = ["full_attention" if size is None else "sliding_attention" for size in pattern]
    # A wrong number of layers is refused where layers are built.
    return {
        "sliding_window": next(iter(sizes), None),
        "layer_types": kinds * min(layers // len(pattern), 10_000),
    }


def _is_window(size: object) -> bool:
    return size is None or (isinstance(size, int) and not isinstance(size, bool))


def _quantization(settings: ConfigKeys) -> dict[str, object]:
    if settings.get("qformat_weight") == "fp8_e4m3":
        return {"quant_method": "fp8"}
    if settings.get("quant_method") is not None:
        return dict(settings.values)
    raise UnsupportedModelError(
        f"{settings.path} says that the weights are quantized as {shown(str(settings.get('qformat_weight')))}, "
        "which is not supported; use an unquantized version of the model."
    )
