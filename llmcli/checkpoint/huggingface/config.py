"""Build a `ModelConfig` from the `config.json` of a Hugging Face checkpoint."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import ATTENTION, CHUNKED, SLIDING
from llmcli.checkpoint.families.refused_keys import OLD_LAYER_TYPES, refuse_unknown_values
from llmcli.checkpoint.families.refused_models import refuse_unsupported
from llmcli.checkpoint.families.registry import FAMILIES
from llmcli.checkpoint.families.rope_keys import rope_config, stretched_context
from llmcli.checkpoint.huggingface.names import FUSED_QKV, TensorNames
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model import LayerConfig, ModelConfig
from llmcli.model.config import Activation

_MOST_LAYERS = 10_000
_ACTIVATION_NAMES: dict[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Multimodal models, and the type of their text model if the file does not state it.
WRAPPERS = {
    **dict.fromkeys(("nemotron_h_omni", "NemotronH_Nano_VL_V2"), "nemotron_h"),
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen4_exp": "qwen4_exp_text",
    "lfm2_vl": "lfm2",
    "lfm3_vl": "lfm3",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "mistral",
    "mllama": "mllama_text_model",
    "llama4": "llama4_text",
    **dict.fromkeys(("llava", "llava_next", "llava_next_video", "vipllava", "video_llava", "perception_lm"), "llama"),
    **dict.fromkeys(("idefics3", "smolvlm", "voxtral"), "llama"),
    **dict.fromkeys(("internvl", "llava_onevision", "ovis2", "got_ocr2", "fast_vlm", "qwen2_audio"), "qwen2"),
    "lighton_ocr": "qwen3",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "glm4v": "glm4v_text",
    "glm46v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
    "kimi_k25": "deepseek_v3",
    "exaone4_5": "exaone4",
    "muse_glimmer": "muse_glimmer_text",
    "apertus1p5": "apertus1p5_text",
    "aria": "aria_text",
    "fuyu": "persimmon",
    "aya_vision": "cohere2",
    "cohere2_vision": "cohere2",
    "cohere_compass": "cohere_compass_text",
}


@dataclass(frozen=True)
class FamilyConfig:
    """The content of a `config.json` whose family is known."""

    model_type: str
    family: Family
    keys: ConfigKeys
    """The keys, with the family's defaults and aliases; `num_hidden_layers` counts only layers that are run."""
    left_out: frozenset[int] = frozenset()
    """Layers of the files that are not run."""


def family_config(keys: ConfigKeys) -> FamilyConfig:
    """Find the family of a model, or of the text model inside a multimodal one.

    Raises:
        UnsupportedModelError: an unknown family, or a feature that this program lacks.
    """
    model_type = keys.text("model_type")
    inner = keys.section("text_config") or keys.section("llm_config") if model_type in WRAPPERS else None
    if inner is not None:
        model_type = inner.text("model_type") or WRAPPERS[str(model_type)]
        # `tie_word_embeddings` is stated outside of `text_config`.
        tied = {"tie_word_embeddings": keys.get("tie_word_embeddings")}
        keys = ConfigKeys({**inner.values, **tied}, keys.path)
    elif model_type in WRAPPERS:
        # Some conversions store a text model alone under the type of the multimodal model.
        model_type = WRAPPERS[model_type]
    family = FAMILIES.get(model_type or "")
    refuse_unsupported(keys, model_type, recurrent=family is not None and family.kinds != ATTENTION)
    if family is None or model_type is None:
        raise UnsupportedModelError(
            f"{keys.path} describes a model of type {model_type!r}, which is not supported; "
            f"supported are {', '.join(sorted(FAMILIES))}."
        )
    nested = [part.values for part in map(keys.section, family.sections) if part is not None]
    values = ChainMap(keys.values, *nested) if nested else keys.values  # type: ignore[arg-type]
    keys = _with_layer_count(ConfigKeys(values, keys.path, family.defaults, family.aliases))
    refuse_unknown_values(keys, model_type, family)
    capped = keys.get("final_logit_softcapping") is not None
    if inner is not None and capped and not family.capped_in_wrappers:
        # `transformers` applies it to the bare text model only; other programs to both.
        raise UnsupportedModelError(
            f"{keys.path} has text_config.final_logit_softcapping = {keys.get('final_logit_softcapping')!r}, which is "
            "supported for a text model without a vision part only."
        )
    if family.paired_key is not None and keys.get(family.paired_key) is False:
        family = replace(family, paired=False)
    left_out = family.left_out(keys)
    if left_out:
        run = {keys.spelled("num_hidden_layers"): keys.integer("num_hidden_layers") - len(left_out)}
        keys = replace(keys, values=ChainMap(run, keys.values))  # type: ignore[arg-type]
    return FamilyConfig(model_type, family, keys, left_out)


def _with_layer_count(keys: ConfigKeys) -> ConfigKeys:
    """The keys, with the number of layers that the list of their types has, if only that states it."""
    listed = keys.get("layer_types")
    if keys.get("num_hidden_layers") is not None or not isinstance(listed, list | str):
        return keys
    return replace(keys, values=ChainMap({"num_hidden_layers": len(listed)}, keys.values))  # type: ignore[arg-type]


def model_config(description: FamilyConfig, names: TensorNames) -> ModelConfig:
    """The `ModelConfig` that a `config.json` describes.

    `names` are the checkpoint's tensors: they decide which biases exist and whether the output head is a separate
    matrix, whatever the configuration claims.

    Raises:
        UnsupportedModelError: an unknown activation, type of layer or RoPE scaling.
        CheckpointError: missing or contradictory sizes.
    """
    keys, family = description.keys, description.family
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    kv_heads = keys.optional_integer("num_key_value_heads") or heads
    if heads % kv_heads:
        raise CheckpointError(f"{keys.path}: {heads} attention heads cannot share {kv_heads} key-value heads evenly.")
    activation = _ACTIVATION_NAMES.get(keys.text("hidden_act") or "")
    if activation is None:
        raise UnsupportedModelError(
            f"{keys.path} asks for the activation {keys.get('hidden_act')!r}, which is unknown."
        )
    tied = not names.offers("", "lm_head", kind="weight")
    if tied and keys.values.get("tie_word_embeddings") is False:
        raise CheckpointError(f"{keys.path} says the output head is a separate matrix, but no file holds it.")
    attention, mlp = (_first_layer(names, keys, part) for part in ("self_attn.o_proj", "mlp.down_proj"))
    qkv = ("self_attn.q_proj", "self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa")
    context_length = keys.integer("max_position_embeddings")
    config = ModelConfig(
        vocab_size=keys.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=_width(keys) or 4 * hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(keys, hidden, heads),
        context_length=stretched_context(keys, context_length),
        norm_eps=keys.not_negative("rms_norm_eps"),
        layers=(),
        activation=activation,
        gated=family.gated,
        norm=family.norm,
        placement=family.placement,
        qk_norm=family.qk_norm,
        qkv_bias=names.offers(attention, *qkv, *FUSED_QKV),
        o_bias=names.offers(attention, "self_attn.o_proj"),
        mlp_bias=names.offers(mlp, "mlp.down_proj"),
        head_bias=names.offers("", "lm_head"),
        tie_embeddings=tied,
    )
    config = replace(config, **family.extras(keys))
    rotated = config.head_dim if config.latent is None else config.latent.rope_dim
    return with_usual_shape(replace(config, layers=_layers(keys, family, rotated, context_length)))


def _first_layer(names: TensorNames, keys: ConfigKeys, module: str) -> str:
    """The prefix of the first layer with a module, since some have no attention or no feed-forward network."""
    layers = map(names.layer, range(min(keys.integer("num_hidden_layers"), _MOST_LAYERS)))
    return next((at for at in layers if names.offers(at, module, kind="weight")), names.layer(0))


def with_usual_shape(config: ModelConfig) -> ModelConfig:
    """The same model, with the sizes that most layers have stated once, and only other sizes in `LayerConfig`."""
    if all(layer.heads is None and layer.intermediate_size is None for layer in config.layers):
        return config
    shapes = [config.heads_of(layer) for layer in config.layers]
    widths = [None if layer.experts is not None else config.width_of(layer) for layer in config.layers]
    # The model's one head size stands for keys and values, so layers of which they differ always state their shape.
    usual = Counter([shape for shape in shapes if shape.key_dim == shape.value_dim] or shapes).most_common(1)[0][0]
    width = Counter(size for size in widths if size is not None).most_common(1)[0][0] if any(widths) else None
    config = replace(config, num_heads=usual.count, num_kv_heads=usual.kv_count, head_dim=usual.key_dim)
    layers = tuple(
        replace(
            layer,
            heads=None if shape == usual and shape.key_dim == shape.value_dim else shape,
            intermediate_size=None if size == width else size,
        )
        for layer, shape, size in zip(config.layers, shapes, widths, strict=True)
    )
    return replace(config, intermediate_size=width or config.intermediate_size, layers=layers)


def _width(keys: ConfigKeys) -> int | None:
    """The size of feed-forward networks, of the first one if it is listed layer by layer."""
    listed = keys.get("intermediate_size")
    return (
        (keys.integers("intermediate_size") or [0])[0]
        if isinstance(listed, list)
        else (keys.optional_integer("intermediate_size"))
    )


def _head_dim(keys: ConfigKeys, hidden: int, heads: int) -> int:
    head_dim = keys.optional_integer("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise CheckpointError(f"{keys.path}: hidden_size {hidden} is not a multiple of {heads} attention heads.")
        head_dim = hidden // heads
    return head_dim


def _layers(keys: ConfigKeys, family: Family, head_dim: int, context_length: int) -> tuple[LayerConfig, ...]:
    count = keys.integer("num_hidden_layers")
    if count > _MOST_LAYERS:
        name = keys.spelled("num_hidden_layers")
        raise CheckpointError(f"{keys.path} has {name!r} = {count}, which is more than any model has.")
    # Later versions list the types in the file; earlier ones leave them to a rule of the family.
    listed = keys.get("layer_types") or family.layer_types(keys, count)
    if not isinstance(listed, list | str) or len(listed) != count:
        raise CheckpointError(
            f"{keys.path}: {keys.spelled('layer_types')} must list {count} layers, as num_hidden_layers says."
        )
    kinds = [OLD_LAYER_TYPES.get(str(kind), str(kind)) for kind in listed]
    unknown = sorted(set(kinds) - set(family.kinds))
    if unknown:
        raise UnsupportedModelError(f"{keys.path} has layers of type {', '.join(unknown)}, which are not supported.")
    on = [kind in ATTENTION and rotates for kind, rotates in zip(kinds, family.rope_on(keys, kinds), strict=True)]
    thetas = _thetas_of_layers(keys, family, count)
    if thetas is not None:
        on = [rotates and theta > 0 for rotates, theta in zip(on, thetas, strict=True)]
    rotated = sorted({kind for kind, rotates in zip(kinds, on, strict=True) if rotates})
    heads = family.heads(keys, kinds)
    sizes = {kind: shape.key_dim for kind, shape in zip(kinds, heads, strict=True) if shape is not None}
    ropes = {
        kind: rope_config(
            keys, family.rope, head_dim=sizes.get(kind, head_dim), context_length=context_length, layer_type=kind
        )
        for kind in rotated
    }
    window = keys.integer("sliding_window") if SLIDING in kinds else None
    chunk = keys.integer("attention_chunk_size") if CHUNKED in kinds else None
    experts = family.experts(keys, count) if family.experts is not None else [None] * count
    scalings = family.query_scaling(keys, on)
    layers = tuple(
        replace(
            LayerConfig(
                rope=ropes.get(kind) if rotates else None,
                window=window if kind == SLIDING else None,
                chunk=chunk if kind == CHUNKED else None,
                experts=mixture,
                query_scaling=scaling,
                heads=shape,
                sinks=family.sinks,
            ),
            **further,
        )
        for kind, rotates, mixture, scaling, shape, further in zip(
            kinds, on, experts, scalings, heads, family.layer_extras(keys, kinds), strict=True
        )
    )
    return layers if thetas is None else tuple(map(_with_theta, layers, thetas))


def _thetas_of_layers(keys: ConfigKeys, family: Family, count: int) -> list[float] | None:
    """The theta of each layer, 0 for a layer without RoPE; None if the file states none for single layers."""
    key = family.rope.theta_of_layers
    listed = None if key is None else keys.get(key)
    if key is None or listed is None:
        return None
    if not isinstance(listed, list) or len(listed) != count:
        raise CheckpointError(f"{keys.path}: {key} must list {count} layers, as num_hidden_layers says.")
    thetas = [ConfigKeys({key: theta}, keys.path).not_negative(key) if theta else 0.0 for theta in listed]
    if any(0 < theta <= 1 for theta in thetas):
        raise CheckpointError(f"{keys.path} has {key} = {in_short(listed)}; 0 or numbers above 1 are needed.")
    return thetas


def _with_theta(layer: LayerConfig, theta: float) -> LayerConfig:
    return layer if layer.rope is None else replace(layer, rope=replace(layer.rope, theta=theta))


def mtp_layer_range(description: FamilyConfig) -> tuple[int, int]:
    """First index and number of trailing layers for multi-token prediction, which are not needed."""
    keys = description.keys
    further = keys.optional_integer("num_nextn_predict_layers", minimum=0) or 0
    return keys.integer("num_hidden_layers"), further or keys.optional_integer("num_mtp_layers", minimum=0) or 0


def tensor_names(description: FamilyConfig, names: Mapping[str, object]) -> TensorNames:
    """A checkpoint's tensor names, with the family's names of norms."""
    return TensorNames(names, description.family.own_names, description.left_out)
