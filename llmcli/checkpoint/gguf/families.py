"""Model families of GGUF files, as data: one entry for each `general.architecture`.

An architecture corresponds to a family of Hugging Face models. Facts that the file omits (which layers have a sliding
window, the attention scale, the order of rows) are those that llama.cpp's converter and loader hard-code. They are
written here as keys of the family's `config.json`, so that one set of rules builds models of both formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmcli.checkpoint.gguf.derived_delta_keys import (
    lfm2_experts_keys,
    lfm2_keys,
    qwen3next_keys,
    qwen35_experts_keys,
    qwen35_keys,
)
from llmcli.checkpoint.gguf.derived_expert_keys import (
    afmoe_keys,
    cohere_experts_keys,
    deepseek4_keys,
    deepseek_keys,
    ernie_keys,
    grok_keys,
    hy3_keys,
    index_keys,
    laguna_keys,
    llama4_keys,
    mellum_keys,
    mimo_keys,
    mistral4_keys,
    qwen_experts_keys,
    routed_keys,
)
from llmcli.checkpoint.gguf.derived_keys import (
    bitnet_keys,
    cohere_keys,
    falcon_keys,
    gemma3n_keys,
    gemma4_keys,
    gemma_keys,
    gptneox_keys,
    granite_keys,
    granite_swa_keys,
    minicpm3_keys,
    mpt_keys,
    muse_keys,
    olmo_keys,
    stablelm_keys,
    starcoder_keys,
)
from llmcli.checkpoint.gguf.derived_recurrent_keys import (
    falcon_h1_keys,
    granite_hybrid_keys,
    jamba_keys,
    kimi_linear_keys,
    mamba2_keys,
    mamba_keys,
    nemotron_keys,
)
from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.checkpoint.gguf.model_files import refuse_companion
from llmcli.checkpoint.gguf.refused_models import refuse_unsupported_gguf
from llmcli.errors import UnsupportedModelError
from llmcli.model.config import QKNorm

Derived = Callable[[ArchitectureKeys], dict[str, Any]]


def _nothing(keys: ArchitectureKeys) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """Facts about a `general.architecture` that its metadata omit."""

    family: str | Callable[[ArchitectureKeys], str]
    """The corresponding `model_type`, or a function that chooses it from the metadata."""
    paired: bool = False
    """Whether the two rows of a rotated pair, of queries and keys, are stored next to each other."""
    paired_index: bool = False
    """Whether the two rows of a rotated pair, of queries and keys of an index, are stored next to each other."""
    window: bool = False
    """Whether the `sliding_window` in the file applies."""
    dense_size: bool = False
    """Whether the file states the size of dense feed-forward layers beside that of its experts."""
    qk_norm: QKNorm | None = None
    """How queries and keys are normalized, if the file holds weights that the family does without."""
    recurrent: bool = False
    """Whether layers without heads, or beside attention, are recurrent."""
    window_heads: bool = False
    """Whether heads of sliding-window layers have another size, and `rope_freqs` is for the other layers."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our names of parts -> the names of their tensors, where they differ from those of most architectures."""
    derived: Derived = _nothing
    """A function that returns further keys of the family's `config.json`."""


def _llama(keys: ArchitectureKeys) -> str:
    return "mixtral" if keys.optional_integer("expert_count") else "llama"


def _olmo2(keys: ArchitectureKeys) -> str:
    return "olmo3" if keys.optional_integer("attention.sliding_window") else "olmo2"


def _granite_windows(keys: ArchitectureKeys) -> str:
    return "granitemoe_swa" if keys.optional_integer("expert_count") else "granite_swa"


def _deepseek2(keys: ArchitectureKeys) -> str:
    if not keys.optional_integer("expert_count"):
        return "youtu"
    return "deepseek_v3" if keys.optional_integer("expert_gating_func") == 2 else "deepseek_v2"


def _granite_hybrid(keys: ArchitectureKeys) -> str:
    return "bamba" if keys.flag("rope.scaling.finetuned", False) else "granitemoehybrid"


def _mamba(keys: ArchitectureKeys) -> str:
    return "falcon_mamba" if keys.flag("ssm.dt_b_c_rms", False) else "mamba"


_LFM_NORM = {"norm": "token_embd_norm"}
_ONE_NORM = {"post_attention_layernorm": "attn_norm"}
_GROK_NORMS = {"attention_output_norm": "attn_output_norm", "mlp_output_norm": "layer_output_norm"}
# The norm before attention of models with two: the other one has the usual name.
_FALCON_NORMS = {"input_layernorm": "attn_norm_2", "post_attention_layernorm": "attn_norm"}

# `paired`: some families are trained with this row order; for others llama.cpp's converter reorders the rows.
ARCHITECTURES: dict[str, Architecture] = {
    "afmoe": Architecture("afmoe", window=True, dense_size=True, derived=afmoe_keys),
    "apertus": Architecture("apertus"),
    "arcee": Architecture("arcee", paired=True),
    "bailingmoe2": Architecture("sarvam_moe", dense_size=True, derived=routed_keys),
    "bitnet": Architecture("bitnet", derived=bitnet_keys),
    "bitnet-b1.58": Architecture("bitnet", derived=bitnet_keys),
    "bloom": Architecture("bloom"),
    "chatglm": Architecture("glm", paired=True),
    "cohere2": Architecture("cohere2", paired=True, window=True, derived=cohere_keys),
    "cohere2moe": Architecture("cohere2_moe", paired=True, window=True, dense_size=True, derived=cohere_experts_keys),
    "command-r": Architecture("cohere", paired=True, derived=cohere_keys),
    "dbrx": Architecture("dbrx", names={"post_attention_layernorm": "attn_output_norm"}, derived=olmo_keys),
    "deepseek2": Architecture(_deepseek2, paired=True, dense_size=True, derived=deepseek_keys),
    "deepseek4": Architecture("deepseek_v4", window=True, derived=deepseek4_keys),
    "deepseek32": Architecture("deepseek_v32", paired=True, dense_size=True, derived=index_keys),
    "dots1": Architecture("dots1", dense_size=True, derived=routed_keys),
    "ernie4_5": Architecture("ernie4_5", paired=True),
    "ernie4_5-moe": Architecture("ernie4_5_moe", paired=True, dense_size=True, derived=ernie_keys),
    "exaone": Architecture("exaone"),
    "exaone-moe": Architecture("exaone_moe", window=True, dense_size=True, derived=routed_keys),
    "exaone4": Architecture("exaone4", window=True),
    "falcon-h1": Architecture("falcon_h1", recurrent=True, derived=falcon_h1_keys),
    "falcon": Architecture("falcon", names=_FALCON_NORMS, derived=falcon_keys),
    "gemma": Architecture("gemma"),
    "gemma2": Architecture("gemma2", window=True, derived=gemma_keys),
    "gemma3": Architecture("gemma3_text", window=True, derived=gemma_keys),
    "gemma3n": Architecture("gemma3n_text", window=True, derived=gemma3n_keys),
    "gemma4": Architecture("gemma4_text", window=True, dense_size=True, window_heads=True, derived=gemma4_keys),
    "glm-dsa": Architecture("glm_moe_dsa", paired=True, paired_index=True, dense_size=True, derived=index_keys),
    "glm4": Architecture("glm4", paired=True),
    "glm4moe": Architecture("glm4_moe", dense_size=True, derived=routed_keys),
    "gpt-oss": Architecture("gpt_oss", window=True),
    "gpt2": Architecture("gpt2"),
    "gptneox": Architecture("gpt_neox", derived=gptneox_keys),
    # All Granite models without recurrent layers have this form, whatever their architecture's name.
    "granite": Architecture("granitemoehybrid", paired=True, derived=granite_keys),
    "granitehybrid": Architecture(_granite_hybrid, paired=True, recurrent=True, derived=granite_hybrid_keys),
    "granitemoe": Architecture("granitemoehybrid", paired=True, derived=granite_keys),
    "granite-swa": Architecture(_granite_windows, paired=True, window=True, derived=granite_swa_keys),
    "grok": Architecture("grok-1", names=_GROK_NORMS, derived=grok_keys),
    "jais2": Architecture("jais2"),
    "jamba": Architecture("jamba", recurrent=True, derived=jamba_keys),
    "kimi-linear": Architecture("kimi_linear", dense_size=True, recurrent=True, derived=kimi_linear_keys),
    # The converter multiplies the base of the rotations by Hunyuan's fixed factor.
    "hunyuan-dense": Architecture("hunyuan_v1_dense"),
    "hunyuan-moe": Architecture("hunyuan_v1_moe"),
    "hy_v3": Architecture("hy_v3", dense_size=True, derived=hy3_keys),
    "laguna": Architecture("laguna", window=True, dense_size=True, derived=laguna_keys),
    "lfm2": Architecture("lfm2", recurrent=True, names=_LFM_NORM, derived=lfm2_keys),
    "lfm2moe": Architecture("lfm2_moe", recurrent=True, dense_size=True, names=_LFM_NORM, derived=lfm2_experts_keys),
    "llama": Architecture(_llama, paired=True),
    "llama4": Architecture("llama4_text", paired=True, derived=llama4_keys),
    "mamba": Architecture(_mamba, recurrent=True, derived=mamba_keys),
    "mamba2": Architecture("mamba2", recurrent=True, derived=mamba2_keys),
    "mellum": Architecture("mellum", window=True, dense_size=True, derived=mellum_keys),
    "mimo2": Architecture("mimo_v2_flash", window=True, dense_size=True, derived=mimo_keys),
    "minicpm3": Architecture("minicpm3", derived=minicpm3_keys),
    "minimax-m2": Architecture("minimax_m2"),
    "mistral3": Architecture("ministral3", paired=True),
    "mistral4": Architecture("mistral4", paired=True, dense_size=True, derived=mistral4_keys),
    "mpt": Architecture("mpt", derived=mpt_keys),
    "muse-glimmer": Architecture("muse_glimmer_text", paired=True, window=True, qk_norm="head", derived=muse_keys),
    "nemotron": Architecture("nemotron"),
    "nemotron_h": Architecture("nemotron_h", recurrent=True, names=_ONE_NORM, derived=nemotron_keys),
    "nemotron_h_moe": Architecture("nemotron_h", recurrent=True, names=_ONE_NORM, derived=nemotron_keys),
    "olmo": Architecture("olmo", paired=True, derived=olmo_keys),
    "olmo2": Architecture(_olmo2, window=True),
    "olmoe": Architecture("olmoe", derived=olmo_keys),
    "phi2": Architecture("phi"),
    "phi3": Architecture("phi3", window=True),
    "phimoe": Architecture("phimoe"),
    "qwen2": Architecture("qwen2"),
    "qwen2moe": Architecture("qwen2_moe", dense_size=True, derived=qwen_experts_keys),
    "qwen2vl": Architecture("qwen2_vl_text"),
    "qwen3": Architecture("qwen3"),
    "qwen35": Architecture("qwen3_5_text", recurrent=True, derived=qwen35_keys),
    "qwen35moe": Architecture("qwen3_5_moe_text", dense_size=True, recurrent=True, derived=qwen35_experts_keys),
    "qwen3moe": Architecture("qwen3_moe", dense_size=True, derived=qwen_experts_keys),
    "qwen3next": Architecture("qwen3_next", dense_size=True, recurrent=True, derived=qwen3next_keys),
    "qwen3vl": Architecture("qwen3_vl_text"),
    "qwen3vlmoe": Architecture("qwen3_vl_moe_text", dense_size=True, derived=qwen_experts_keys),
    "seed_oss": Architecture("seed_oss"),
    "smollm3": Architecture("smollm3", paired=True),
    "stablelm": Architecture("stablelm", derived=stablelm_keys),
    "starcoder": Architecture("gpt_bigcode", derived=starcoder_keys),
    "starcoder2": Architecture("starcoder2"),
}


def architecture_of(header: GGUFHeader) -> tuple[Architecture, ArchitectureKeys]:
    """The entry of `ARCHITECTURES` for a file, and its keys.

    Raises:
        UnsupportedModelError: the architecture is unknown, or uses something that this program cannot run.
    """
    refuse_companion(header.path, header.metadata)
    keys = ArchitectureKeys(header, header.get_str("general.architecture"))
    known = ARCHITECTURES.get(keys.architecture)
    refuse_unsupported_gguf(keys, recurrent=known is not None and known.recurrent)
    if keys.architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{header.path} describes a model of architecture {keys.architecture!r}, which is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[keys.architecture], keys
