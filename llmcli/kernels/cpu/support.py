"""The configurations that the C kernel supports."""

from __future__ import annotations

from llmcli.kernels.coverage import ROTATIONS, SMALL_PARTS, SupportedFields, any_value, why_unsupported
from llmcli.model.config import (
    Alibi,
    AttentionGate,
    ExpertsConfig,
    HeadLayer,
    Heads,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
)
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, RglruConfig, ShortConvConfig
from llmcli.model.residual_config import AltupConfig, PerLayerConfig

# In the order of the enumerations of `csrc/abi.h`.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu", "xielu")
QK_NORMS = (None, "head", "whole", "each_head", "rotated", "rotated_head", "weightless")
ENCODINGS = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS",
)  # fmt: skip
SCORES = ("softmax", "sigmoid", "softmax_of_chosen", "sigmoid_of_chosen", "sigmoid_of_biased", "sparse_mixing")

SUPPORTED: SupportedFields = {
    ModelConfig: {
        **any_value("vocab_size hidden_size intermediate_size num_heads num_kv_heads head_dim context_length norm_eps"),
        **any_value("layers gated norm final_norm post_norm_eps qkv_clip attention_scale attention_softcap"),
        **any_value("qkv_bias o_bias mlp_bias head_bias learned_positions attention_gate sub_norms embed_norm alibi"),
        **any_value("embed_scale embed_scale_rounded residual_scale logit_scale logit_softcap tie_embeddings"),
        **any_value("value_norm value_scale per_layer layer_scale altup latent int8_cache head_layer"),
        "activation": ACTIVATIONS,
        "placement": ("pre", "post", "sandwich", "parallel", "parallel_shared", "sum"),
        "qk_norm": QK_NORMS,
    },
    LayerConfig: any_value(
        "rope window chunk experts query_scaling heads intermediate_size kv_from key_is_value sinks sparsity "
        "input_norm mixer beside parts"
    ),
    Heads: any_value("count kv_count key_dim value_dim"),
    ExpertsConfig: {
        **any_value("count chosen intermediate_size gated normalized scale scales_input groups groups_chosen"),
        **any_value("float32_router router_bias selection_bias bias glu shared_size shared_gate"),
        **any_value(
            "router_softcap mixing_range shared_scale output_norm router_scale expert_scale own_norms latent_size"
        ),
        "score": SCORES,
        "group_score": ("best", "best_two"),
    },
    AltupConfig: {**any_value("laurel_rank scaled"), "streams": range(2, 9)},
    LatentConfig: any_value("query_rank rank nope_dim rope_dim value_dim"),
    PerLayerConfig: any_value("vocab_size size"),
    DeltaConfig: {
        **any_value("key_heads value_heads key_dim value_dim conv_width beta_scale tiled norm_eps late_rounding"),
        **any_value("decay safe_decay gate_rank"),
        "gate": ("silu", "sigmoid"),
    },
    Mamba2Config: any_value("heads head_dim groups state conv_width conv_bias bias norm min_step max_step"),
    MambaConfig: any_value("width state step_rank conv_width conv_bias bias norms norms_eps"),
    RglruConfig: any_value("width blocks conv_width"),
    ShortConvConfig: any_value("width bias"),
    Alibi: any_value("as_score"),
    AttentionGate: {**any_value("per_head"), "activation": ("sigmoid", "softplus")},
    HeadLayer: {**any_value("bias"), "activation": tuple(name for name in ACTIVATIONS if name != "xielu")},
    **SMALL_PARTS,
    NormStyle: {**SMALL_PARTS[NormStyle], "kind": ("rms", "layer", "none")},
    **ROTATIONS,
}
"""The fields that `decoder.c` supports; models with other fields use the readable model."""


def unsupported(config: ModelConfig) -> str | None:
    """The reason why the kernel does not support a model, without a full stop; None: it does."""
    if config.latent is not None and config.attention_softcap is not None:
        return "latent attention with capped scores"
    for layer in config.layers:
        if layer.beside is not None and (layer.mixer is not None or isinstance(layer.beside, ShortConvConfig)):
            return "another network beside attention than one with a state"
    if config.qk_norm == "whole" and any(layer.key_is_value for layer in config.layers):
        return "values that are keys normalized over all heads"
    mixtures = [layer.experts for layer in config.layers if layer.experts is not None]
    if any(experts.router_scale and not experts.own_norms for experts in mixtures):
        return "a router that normalizes the input of the experts"
    if any(experts.own_norms and experts.latent_size is not None for experts in mixtures):
        return "experts with separate norms in a latent space"
    if any(experts.own_norms for experts in mixtures) and config.placement != "sandwich":
        return f"experts beside a dense network, placed {config.placement}"
    return why_unsupported(config, SUPPORTED)
