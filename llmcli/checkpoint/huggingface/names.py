"""Names of model parts in Hugging Face checkpoints, and the prefixes before them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from llmcli.checkpoint.huggingface import shared_row_names
from llmcli.model import ModelConfig

# Longest first; without its prefix a name is the name inside the language model.
_PREFIXES = (
    "model.language_model.model.",
    "language_model.backbone.",
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "gpt_neox_japanese.",
    "model.backbone.",
    "language_model.",
    "model.decoder.",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "decoder.",
    "biogpt.",
    "rwkv.",
    "model.",
)
# Vision and audio parts, and layers for multi-token prediction; none is needed for text.
_OTHER_PARTS = re.compile(
    r"(model\.|language_model\.)*(visual|vision_(tower|model|embedder|encoder|adapter|projection|embed_tokens|projector)"
    r"|multi_modal_projector|mlp1|sound_(encoder|projection)|mm_projector|embed_(vision|audio)|image_newline|audio_(tower|embed|encoder)|(vision|audio)_tokenizer|connector|mtp"
    r"|embed_tokens_extend)(\..*)?"
)
# Buffers that older versions of transformers saved; all are computed from the configuration.
_OLD_BUFFERS = re.compile(
    r".*\.(rotary_emb\.inv_freq|(attn|attention)\.((masked_)?bias|causal_mask)|attention\.rotary_emb\.inv_freq|mlp\.act_fn\.(beta|eps)"
    r"|ple_embedding\.(layer_multipliers|ngram_heads_(vocab_sizes|offsets)))"
)

# Our name of a part, and its other names. Each of these names means the same in all families.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "embed_tokens": (
        "embeddings.tok_embeddings",
        "tokens_embed",
        "wte",
        "embed_in",
        "word_embeddings",
        "in_out_embed",
        "embeddings",
        "embed",
    ),
    "embed_positions": ("wpe", "positions_embed"),
    "embed_norm": ("word_embeddings_layernorm", "embeddings.norm"),
    "norm": ("final_norm", "ln_f", "final_layer_norm", "final_layernorm", "layer_norm", "norm_f", "rms_norm"),
    "lm_head": ("embed_out", "output_projection", "decoder", "head"),
    "head_layer.dense": ("lm_head.dense",),
    "head_layer.norm": ("lm_head.norm",),
    "input_layernorm": (
        "attention_layernorm",
        "attn_norm",
        "attention_layer_norm",
        "ln_1",
        "ln_attn",
        "self_attn_layer_norm",
        "norm_1",
        "pre_attn_norm",
        "rms_norm",
    ),
    "attention_output_norm": ("post_attn_norm", "rms_norm_1"),
    "post_attention_layernorm": (
        "feedforward_layernorm",
        "mlp_norm",
        "feedforward_layer_norm",
        "pre_ff_layernorm",
        "ln_2",
        "ln_mlp",
        "final_layer_norm",
        "norm_2",
        "pre_moe_norm",
        "rms_norm_2",
        "ffn_norm",
    ),
    "mlp_output_norm": ("post_moe_norm", "rms_norm_3"),
    "self_attn.q_proj": (
        "attn.attention.q_proj",
        "attn.q_proj",
        "multi_head_attention.query",
        "mixer.q_proj",
    ),
    "self_attn.k_proj": (
        "attn.attention.k_proj",
        "attn.k_proj",
        "multi_head_attention.key",
        "mixer.k_proj",
    ),
    "self_attn.v_proj": (
        "attn.attention.v_proj",
        "attn.v_proj",
        "multi_head_attention.value",
        "mixer.v_proj",
    ),
    "self_attn.o_proj": (
        "self_attn.dense",
        "self_attn.out_proj",
        "attn.o_proj",
        "attn.Wo",
        "multi_head_attention.linear",
        "attn.c_proj",
        "attn.out_proj",
        "attn.attention.out_proj",
        "attention.dense",
        "self_attention.dense",
        "mixer.o_proj",
    ),
    "self_attn.q_norm": ("self_attn.q_layernorm", "self_attn.query_layernorm", "attention.query_layernorm"),
    "self_attn.k_norm": ("self_attn.k_layernorm", "self_attn.key_layernorm", "attention.key_layernorm"),
    "self_attn.gate_proj": ("self_attn.g_proj", "attention.g_proj"),
    "self_attn.indexer.q_proj": ("self_attn.indexer.wq_b",),
    "self_attn.indexer.k_proj": ("self_attn.indexer.wk",),
    "self_attn.indexer.q_norm": ("self_attn.indexer.q_layernorm",),
    "self_attn.indexer.k_norm": ("self_attn.indexer.k_layernorm",),
    "self_attn.indexer.weight_proj": ("self_attn.indexer.weights_proj",),
    "self_attn.sub_norm": ("self_attn.attn_sub_norm",),
    "mlp.sub_norm": ("mlp.ffn_sub_norm",),
    "mlp.gate_proj": ("feed_forward.gate_proj", "mlp.c_fc_0", "block_sparse_moe.gate_proj"),
    "mlp.up_proj": (
        "feed_forward.up_proj",
        "mlp.c_fc",
        "mlp.c_fc_1",
        "mlp.fc1",
        "mlp.fc_in",
        "mlp.dense_h_to_4h",
        "ffn.up_proj",
        "fc1",
        "mixer.up_proj",
        "block_sparse_moe.up_proj",
    ),
    "mlp.down_proj": (
        "feed_forward.down_proj",
        "mlp.c_proj",
        "mlp.Wo",
        "mlp.fc2",
        "mlp.fc_out",
        "mlp.dense_4h_to_h",
        "shared_mlp.output_linear",
        "ffn.down_proj",
        "fc2",
        "mixer.down_proj",
        "block_sparse_moe.down_proj",
    ),
    "per_layer_embeddings.embed_tokens": ("embed_tokens_per_layer",),
    "per_layer_embeddings.projection": ("per_layer_model_projection",),
    "per_layer_embeddings.norm": ("per_layer_projection_norm",),
    "per_layer_input.gate": ("per_layer_input_gate",),
    "per_layer_input.projection": ("per_layer_projection",),
    "per_layer_input.norm": ("post_per_layer_input_norm",),
    "mlp.gate": (
        "mlp.router",
        "mlp.router.gate",
        "mlp.gate.wg",
        "block_sparse_moe.gate",
        "block_sparse_moe.router",
        "block_sparse_moe.router.layer",
        "feed_forward.router",
        "feed_forward.gate",
        "ffn.router.layer",
        "ffn.gate",
        "router",
        "mixer.gate",
    ),
    "mlp.latent_in": ("mixer.fc1_latent_proj",),
    "mlp.latent_out": ("mixer.fc2_latent_proj",),
    "mlp.shared_expert.gate_proj": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_mlp.gate_proj",
        "feed_forward.shared_expert.gate_proj",
        "block_sparse_moe.shared_experts.gate_proj",
        "ffn.shared_experts.w1",
    ),
    "mlp.shared_expert.up_proj": (
        "mlp.shared_experts.up_proj",
        "mlp.shared_mlp.up_proj",
        "feed_forward.shared_expert.up_proj",
        "block_sparse_moe.shared_experts.up_proj",
        "ffn.shared_experts.w3",
        "mixer.shared_experts.up_proj",
    ),
    "mlp.shared_expert.down_proj": (
        "mlp.shared_experts.down_proj",
        "mlp.shared_mlp.down_proj",
        "feed_forward.shared_expert.down_proj",
        "shared_mlp.output_linear",
        "block_sparse_moe.shared_experts.down_proj",
        "ffn.shared_experts.w2",
        "mixer.shared_experts.down_proj",
    ),
    **shared_row_names.SYNONYMS,
}
# Queries, keys and values in one tensor.
FUSED_QKV = (
    "self_attn.qkv_proj",
    "self_attn.query_key_value",
    "self_attention.query_key_value",
    "attention.query_key_value",
    "attn.c_attn",
    "attn.qkv_proj",
    "attn.Wqkv",
)
# The same for parameters that are not a module's weight or bias.
_WHOLE_NAMES: dict[str, tuple[str, ...]] = {
    "mlp.time_mix_key": ("feed_forward.time_mix_key",),
    "mlp.time_mix_receptance": ("feed_forward.time_mix_receptance",),
    "mlp.gate.scale": ("router.scale",),
    "mlp.gate.per_expert_scale": ("router.per_expert_scale",),
    **shared_row_names.WHOLE_NAMES,
    "self_attn.sinks": ("self_attn.softmax_offset", "self_attn.attention_sink_bias", "attn.attn_sink"),
    "mlp.activation.alpha_p": ("mlp.act_fn.alpha_p",),
    "mlp.activation.alpha_n": ("mlp.act_fn.alpha_n",),
    "mlp.gate.e_score_correction_bias": (
        "mlp.moe_statics.e_score_correction_bias",
        "mlp.e_score_correction_bias",
        "mlp.expert_bias",
        "feed_forward.expert_bias",
        "mlp.experts.e_score_correction_bias",
        "moe.router.expert_bias",
        "mlp.gate.expert_bias",
        "block_sparse_moe.e_score_correction_bias",
        "block_sparse_moe.gate.e_score_correction_bias",
        "mixer.gate.e_score_correction_bias",
        "ffn.gate.bias",
    ),
}
# Modules around others: a layer with an adapter, and DBRX's attention with both norms.
_AROUND = re.compile(r"\.(base_layer|norm_attn_norm)\.")
_LAYERS = re.compile(r"((?:layers|h|blocks|decoder_layer)\.)0\..+")
_LAST = re.compile(r"(.+)\.(weight|bias)")
_EMBEDDINGS = {f"{name}.weight" for name in ("embed_tokens", *_SYNONYMS["embed_tokens"])}


class TensorNames:
    """The tensor names of a checkpoint, looked up by names inside the language model."""

    def __init__(
        self, names: Iterable[str], own_names: Mapping[str, str], left_out: frozenset[int] = frozenset()
    ) -> None:
        """`own_names` maps our name of a part to the family's name, for names that other families use differently.

        The layers `left_out` are in the files and not in the model.
        """
        self._own_names = own_names
        self._left_out = sorted(left_out)
        self._full: dict[str, str] = {}
        self._prefix = "model."
        for full in names:
            if is_ignored_name(full):
                continue
            # A name behind the prefix has several parts: "decoder.weight" is a head.
            found = (prefix for prefix in _PREFIXES if full.startswith(prefix) and "." in full[len(prefix) :])
            prefix = next(found, "")
            # If two names end alike, the first is used; the other one is reported as unused.
            name = _AROUND.sub(".", full.removeprefix(prefix))
            self._full.setdefault(name, full)
            if name in _EMBEDDINGS:
                self._prefix = prefix
        first = (_LAYERS.fullmatch(name) for name in self._full)
        self._layers = next((match[1] for match in first if match is not None), "layers.")

    def has(self, name: str) -> bool:
        """Whether the language model has a tensor of that name."""
        return name in self._full

    def has_part(self, prefix: str) -> bool:
        """Whether the language model has tensors whose names begin so."""
        return any(name.startswith(prefix) for name in self._full)

    def full(self, name: str) -> str:
        """The full name in the files of a name inside the language model; the likeliest one if it is missing."""
        return self._full.get(name, name if name.startswith("lm_head.") else self._prefix + name)

    def layer(self, index: int) -> str:
        """The prefix of the names of one layer of the model."""
        for skipped in self._left_out:
            index += skipped <= index
        return f"{self._layers}{index}."

    def find(self, at: str, local: str) -> str:
        """The full name of our part `local`, in the layer with the prefix `at`."""
        match = _LAST.fullmatch(local)
        if local in _WHOLE_NAMES or match is None:
            found = (at + name for name in (local, *_WHOLE_NAMES.get(local, ())) if self.has(at + name))
            return self.full(next(found, at + local))
        module, kind = match.groups()
        module = self._own_names.get(module, module)
        for name in (module, *_SYNONYMS.get(module, ()), module.replace("self_attn.", "attention.")):
            if self.has(f"{at}{name}.{kind}"):
                return self.full(f"{at}{name}.{kind}")
        return self.full(f"{at}{module}.{kind}")

    def first_of(self, at: str, modules: Iterable[str], kind: str) -> str | None:
        """The full name of the first of `modules` that the layer has, or None."""
        found = (f"{at}{module}.{kind}" for module in modules if self.has(f"{at}{module}.{kind}"))
        return next(map(self.full, found), None)

    def offers(self, at: str, *modules: str, kind: str = "bias") -> bool:
        """Whether one of the modules, by any of its names, has a tensor of this kind in the layer."""
        candidates = [name for module in modules for name in (module, *_SYNONYMS.get(module, ()))]
        return self.first_of(at, candidates, kind) is not None


def belongs_to_model(full: str) -> bool:
    """Whether a full name looks like a part of a language model."""
    return full.startswith(
        (
            *_PREFIXES,
            "lm_head.",
            "embed_out.",
            "head.",
            "layers.",
            "h.",
            "wte.",
            "wpe.",
            "ln_f.",
            "tokens_embed.",
            "positions_embed.",
        )
    )


def is_ignored_name(full: str) -> bool:
    """Whether a tensor is not needed to generate text."""
    return _OTHER_PARTS.fullmatch(full) is not None or _OLD_BUFFERS.fullmatch(full) is not None


def is_unread(full: str, config: ModelConfig) -> bool:
    """Whether a tensor belongs to a part that other layers have and this one has not; `transformers` ignores it.

    Keys or values of a layer that reads another layer's, and the norm after experts of a layer without experts.
    """
    match = re.search(r"\blayers\.(\d+)\.(self_attn\.[kv]_(?:proj|norm)|post_mlp_layernorm)\.", full)
    index = int(match[1]) if match is not None and len(match[1]) < 6 else len(config.layers)
    if match is None or index >= len(config.layers):
        return False
    layer = config.layers[index]
    if match[2] != "post_mlp_layernorm":
        return layer.kv_from is not None
    normed = any(other.experts is not None and other.experts.output_norm for other in config.layers)
    return normed and layer.experts is None


def is_left_out(full: str, left_out: frozenset[int]) -> bool:
    """Whether a tensor is part of one of the layers `left_out` of the model."""
    match = re.search(r"\blayers\.(\d{1,5})\.", full)
    return match is not None and int(match[1]) in left_out


def is_extra_layer(full: str, first: int, count: int) -> bool:
    """Whether a tensor is part of the `count` multi-token-prediction layers from `first` on."""
    match = re.search(r"\blayers\.(\d+)\.", full)
    return match is not None and first <= int(match[1]) < first + count
