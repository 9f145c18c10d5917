"""Keys of `config.json` with values that `transformers` supports and this program does not; each is refused.

A key that is neither read, nor refused here or in `refused_models`, nor in the tests' list of harmless keys
(tests/support/models/harmless_keys.py) belongs to no configuration class of `transformers`; both ignore it.
"""

from __future__ import annotations

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.layer_rules import DENSE, FULL, LINEAR, SPARSE
from llmcli.checkpoint.families.rope_keys import LAYER_TYPES
from llmcli.errors import UnsupportedModelError

# Names of types of layers in older files, the last four as one string for all layers; attention with an index of keys
# has other types in newer ones.
OLD_LAYER_TYPES = {
    **dict.fromkeys(("attention", "indexed_attention", "qwen_sparse_attention"), FULL),
    "mamba": LINEAR,
    "*": FULL,
    "M": LINEAR,
    "-": DENSE,
    "E": SPARSE,
}

_LONGEST_VALUE = 120

# RoPE keys with which the published code of some models scales frequencies or scores, and `transformers` does not.
# Null and the listed values change nothing.
_ROTATION_KEYS: dict[str, tuple[object, ...]] = {
    "attn_factor": (1,),
    "extrapolation_factor": (1,),
    "ext_factor": (1,),
    "alpha": (),
    "short_mscale": (),
    "long_mscale": (),
}
_SCALES = ("short_mscale", "long_mscale")


def refuse_unknown_values(keys: ConfigKeys, model_type: str, family: Family) -> None:
    """Refuse values that the model's family does not support; `keys` include the family's defaults.

    Raises:
        UnsupportedModelError: with the key and its value.
    """
    for key, values in family.supported_values.items():
        if (value := keys.get(key)) is not None and value not in values:
            raise _unsupported(keys, model_type, key, value)
    if keys.values.get("kv_sharing_modes"):
        raise _unsupported(keys, model_type, "kv_sharing_modes", keys.values["kv_sharing_modes"])
    _refuse_layer_types(keys, model_type, family)
    _refuse_rotations(keys, model_type, family)


def _refuse_layer_types(keys: ConfigKeys, model_type: str, family: Family) -> None:
    listed = keys.get("layer_types")
    if family.lists_layer_types or not isinstance(listed, list):
        return
    kinds = [OLD_LAYER_TYPES.get(str(kind), str(kind)) for kind in listed]
    # A list of the wrong length is refused where layers are built.
    if len(kinds) == keys.optional_integer("num_hidden_layers") and kinds != family.layer_types(keys, len(kinds)):
        raise _unsupported(
            keys, model_type, "layer_types", listed, "sliding_window alone decides the type of all its layers"
        )


def _refuse_rotations(keys: ConfigKeys, model_type: str, family: Family) -> None:
    for name in ("rope_scaling", "rope_parameters"):
        found = keys.values.get(name)
        if not isinstance(found, dict) or not found:
            continue
        nested = any(kind in found for kind in LAYER_TYPES)
        if nested and (name == "rope_scaling" or not family.rope.by_layer_type):
            raise _unsupported(keys, model_type, name, found, "all its layers share one RoPE")
        if family.rope.by_layer_type and name == "rope_parameters" and not nested:
            raise _unsupported(keys, model_type, name, found, "each layer type needs its own RoPE parameters")
        if family.rope.by_layer_type and name == "rope_scaling":
            if keys.values.get("rope_parameters"):
                raise _unsupported(keys, model_type, name, found, "it has rope_parameters as well")
            if "rope_type" not in found and found.get("type") not in (None, "default"):
                raise _unsupported(keys, model_type, f"{name}.type", found["type"], "the key must be rope_type")
        parts = [part for part in found.values() if isinstance(part, dict)] if nested else [found]
        for part in parts:
            _refuse_rotation(ConfigKeys(part, keys.path), name, model_type, family)
    _refuse_partial(keys, "", model_type, family)


def _refuse_rotation(part: ConfigKeys, name: str, model_type: str, family: Family) -> None:
    known = (("alpha",) if family.rope.fixed_alpha else ()) + (_SCALES if family.rope.stated_scales else ())
    for key, values in _ROTATION_KEYS.items():
        if key in known:
            continue
        if (value := part.get(key)) is not None and value not in values:
            raise _unsupported(part, model_type, f"{name}.{key}", value)
    if part.get("rope_type") != "proportional" or not family.rope.by_layer_type:
        _refuse_partial(part, f"{name}.", model_type, family)


def _refuse_partial(keys: ConfigKeys, prefix: str, model_type: str, family: Family) -> None:
    share = keys.values.get("partial_rotary_factor")
    if not family.rope.partial and not family.rope.restated and share not in (None, 1):
        raise _unsupported(keys, model_type, f"{prefix}partial_rotary_factor", share, "it rotates whole heads")


def _unsupported(keys: ConfigKeys, model_type: str, key: str, value: object, why: str = "") -> UnsupportedModelError:
    text = repr(value)
    text = text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."
    why = f": {why}" if why else ""
    return UnsupportedModelError(
        f"{keys.path} has {key} = {text}, which is not supported for a model of type {model_type!r}{why}."
    )
