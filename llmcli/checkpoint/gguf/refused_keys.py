"""Metadata keys of GGUF files that change what a model computes; refused where the family does not read them.

The keys are those of the `gguf` package. A key that is neither here, nor read, nor in the list of harmless keys
(tests/support/gguf/harmless_keys.py) is unknown to llama.cpp too, which ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import UnsupportedModelError

_OFF, _ONE, _NO_FACTOR = (0,), (0, 1), (0, 1)

CHANGING: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        (
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "router_logit_softcapping",
            "attention.clamp_kqv",
            "attention.indexer.head_count",
            "attention.indexer.key_length",
            "attention.indexer.top_k",
            "attention.max_alibi_bias",
            "attention.relative_buckets_count",
            "attention.group_norm_groups",
            "attention.scale",
            "attention.shared_kv_layers",
            "attention.sliding_window",
            "attention.temperature_length",
            "attention.temperature_scale",
            "activation_sparsity_scale",
            "embedding_length_per_layer_input",
            "expert_chunk_feed_forward_length",
            "moe_latent_size",
            "rescale_every_n_layers",
            "swiglu_clamp_exp",
            "swiglu_clamp_shexp",
            "swin_norm",
            "token_shift_count",
            "use_parallel_residual",
        ),
        _OFF,
    ),
    **dict.fromkeys(
        (
            "attention.output_scale",
            "embedding_scale",
            "expert_group_scale",
            "expert_weights_scale",
            "logit_scale",
            "residual_scale",
            "rope.scale_linear",
            "rope.scaling.alpha",
            "rope.scaling.attn_factor",
            "rope.scaling.factor",
            "rope.scaling.yarn_attn_factor",
        ),
        _NO_FACTOR,
    ),
    **dict.fromkeys(("altup.num_inputs", "expert_group_count", "expert_group_used_count", "experts_per_group"), _ONE),
    "full_attention_interval": _ONE,
    "rope.scaling.type": ("none", "linear", "longrope"),
    "rope.scaling.yarn_ext_factor": (-1, 0, 1),
}
"""Each key, and the values with which it changes nothing; of a list, all items must be among them."""

SAME_AS: Mapping[str, str] = {
    "attention.key_length_swa": "attention.key_length",
    "attention.value_length_swa": "attention.key_length",
    "rope.dimension_count_swa": "rope.dimension_count",
}
"""Sizes of sliding-window layers, and the sizes of the other layers, which they must equal."""

# These architectures compute attention and feed-forward in parallel, or their tensors show whether they do.
_PARALLEL = ("cohere2", "command-r", "phi2", "stablelm")


def refuse_unknown_values(keys: ArchitectureKeys) -> None:
    """Refuse keys that change the computation and have not been read; call it when the configuration is complete.

    Raises:
        UnsupportedModelError: with the key and its value.
    """
    begin = f"{keys.architecture}."
    for full, value in keys.header.metadata.items():
        key = full.removeprefix(begin)
        if key == full or key in keys.read_keys:
            continue
        allowed = CHANGING.get(key)
        if key in SAME_AS:
            allowed = (keys.header.metadata.get(begin + SAME_AS[key], value),)
        if key == "attention.sliding_window":
            # A window that no text can exceed is harmless.
            context = keys.integer("context_length")
            allowed = (0, value) if isinstance(value, int) and value >= context else (0,)
        if key == "use_parallel_residual" and keys.architecture in _PARALLEL:
            continue
        if allowed is None or all(item in allowed for item in (value if isinstance(value, list) else [value])):
            continue
        text = repr(value)
        raise UnsupportedModelError(
            f"{keys.header.path} has {full} = {text if len(text) < 100 else text[:100] + '...'}, which is not "
            f"supported for models of architecture {keys.architecture!r}."
        )
