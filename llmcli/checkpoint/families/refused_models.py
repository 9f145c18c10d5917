"""Models that this program cannot run, each with the reason; checked before any weights are read."""

from __future__ import annotations

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.errors import UnsupportedModelError

_RECURRENT = "layers with a recurrent state of another kind"
_SPARSE = "attention that an index selects keys for"
_ENCODER = "an encoder"

REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "zamba",
            "zamba2",
            "rwkv5",
            "rwkv6",
            "rwkv7",
            "minimax",
            "zaya",
        ),
        _RECURRENT,
    ),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), _SPARSE),
    **dict.fromkeys(("axk2", "hy_v4", "dots3_note", "dots3_note_text", "mistral_large4"), _SPARSE),
    **dict.fromkeys(("inkling_text", "inkling2_text", "inkling2_loop_text"), "convolutions within attention"),
    **dict.fromkeys(("dory", "hrm_text"), "layers that run several times"),
    "ctrl": "positions as sines beside cosines",
    "blt": "patches of bytes instead of tokens",
    "cpmant": "attention biased by relative positions",
    "diffllama": "differences of two softmaxes",
    "doge": "attention with a learned mask",
    "jetmoe": "mixtures of attention heads",
    "longcat_flash": "experts that do nothing",
    **dict.fromkeys(("t5", "mt5", "bart", "mbart", "pegasus", "marian", "whisper", "t5gemma"), _ENCODER),
    **dict.fromkeys(("bert", "roberta", "deberta", "modernbert"), "attention to later tokens"),
    "phi3small": "block-sparse attention",
}
# Families whose sizes of single layers are read.
_SIZES_BY_LAYER = ("gemma4_text", "gemma4_unified_text")
_STATE_TYPES = ("mamba", "linear_attention", "conv", "hybrid", "recurrent")
_STATE_KEYS = ("ssm_", "linear_conv")


def refuse_unsupported(keys: ConfigKeys, model_type: str | None, *, recurrent: bool) -> None:
    """Refuse a model whose `config.json` shows a feature that this program lacks.

    `recurrent` families have layers with a state that it does not lack.

    Raises:
        UnsupportedModelError: names the feature.
    """
    if model_type in REASONS:
        raise _unsupported(keys, model_type, REASONS[model_type])
    kinds = keys.get("layer_types") or keys.get("layers_block_type")
    if isinstance(kinds, list) and not recurrent:
        states = [index for index, kind in enumerate(kinds) if any(name in str(kind) for name in _STATE_TYPES)]
        if states:
            some = ", ".join(map(str, states[:4])) + (", ..." if len(states) > 4 else "")
            raise _unsupported(keys, model_type, f"{_RECURRENT} ({kinds[states[0]]} in block {some})")
    for name in keys.values:
        if name.startswith(_STATE_KEYS) and not recurrent:
            raise _unsupported(keys, model_type, f"{_RECURRENT} ({name})")
    if keys.get("is_causal") is False or keys.get("use_bidirectional_attention") in (True, "all"):
        raise _unsupported(keys, model_type, "attention to later tokens, so it embeds texts and does not write them")
    if keys.get("per_layer_config") and model_type not in _SIZES_BY_LAYER:
        raise _unsupported(keys, model_type, "layers of different sizes (per_layer_config)")
    if keys.get("is_encoder_decoder") is True:
        raise _unsupported(keys, model_type, _ENCODER)


def _unsupported(keys: ConfigKeys, model_type: str | None, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{keys.path} describes a model of type {model_type!r}, which has {what}. This is not supported; "
        "see llm help models."
    )
