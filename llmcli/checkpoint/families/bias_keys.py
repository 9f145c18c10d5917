"""Keys of `config.json` that say that linear layers have no bias, even if the files hold one.

Quantization tools write a bias of zeros for every matrix, and a model trained from another may keep unused tensors.
`transformers` builds the layers that the configuration describes and ignores other tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from llmcli.checkpoint.families.config_keys import ConfigKeys

Tensor = TypeVar("Tensor")

_ATTENTION = r".*\.(self_attn|self_attention|attn|attention)\."
_QKV = re.compile(
    _ATTENTION + r"(q_proj|k_proj|v_proj|qkv_proj|q_a_proj|kv_a_proj_with_mqa|c_attn|query_key_value)\.bias"
)
_OUTPUT = re.compile(_ATTENTION + r"(o_proj|out_proj|dense|c_proj)\.bias")
_MLP = re.compile(
    r".*\.(mlp|feed_forward)\.(shared_experts?\.)?"
    r"(gate_proj|up_proj|down_proj|gate_up_proj|c_fc|c_proj|dense_h_to_4h|dense_4h_to_h)\.bias"
)


@dataclass(frozen=True)
class BiasKeys:
    """For each kind of layer, the key that is false if it has no bias; None: no such key."""

    qkv: str | None = "attention_bias"
    output: str | None = "attention_bias"
    mlp: str | None = "mlp_bias"


ALWAYS = BiasKeys(None, None, None)
"""For families whose biases are not optional."""


def without_unwanted_biases(tensors: Mapping[str, Tensor], keys: ConfigKeys, biases: BiasKeys) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint, without biases that its `config.json` switches off.

    An absent key switches nothing off: then the files decide.

    Raises:
        CheckpointError: such a key is neither true nor false.
    """
    patterns = ((biases.qkv, _QKV), (biases.output, _OUTPUT), (biases.mlp, _MLP))
    off = [
        pattern
        for key, pattern in patterns
        if key is not None and keys.spelled(key) in keys.values and not keys.flag(key)
    ]
    if not off:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if not any(pattern.fullmatch(name) for pattern in off)}
