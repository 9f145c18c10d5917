"""What one model family of Hugging Face checkpoints has of its own, as data; `families` holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmcli.checkpoint.families import rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.model import ExpertsConfig, NormStyle, QueryScaling
from llmcli.model.config import Placement, QKNorm


@dataclass(frozen=True)
class Family:
    """What a family adds to, or changes of, the Llama pattern."""

    defaults: Mapping[str, object] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys that stand for the usual ones."""
    norm: NormStyle = field(default_factory=NormStyle)
    placement: Placement = "pre"
    qk_norm: QKNorm | None = None
    sinks: bool = False
    gated: bool = True
    layer_types: Callable[[ConfigKeys, int], list[str]] = rules.all_full
    rope_on: Callable[[ConfigKeys, list[str]], list[bool]] = rules.always_rope
    rope: RopeRules = field(default_factory=RopeRules)
    query_scaling: Callable[[ConfigKeys, list[bool]], list[QueryScaling | None]] = rules.no_query_scaling
    experts: Callable[[ConfigKeys, int], list[ExpertsConfig | None]] | None = None
    extras: Callable[[ConfigKeys], dict[str, Any]] = rules.nothing_more
    """Further fields of `ModelConfig`."""

    lists_layer_types: bool = False
    """`layer_types` may list the kind of each layer; the others have the layers of their rule."""
    biases: BiasKeys = field(default_factory=BiasKeys)
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys that `transformers` reads and of which this program computes no other values than these; absence is one."""

    # How tensors are stored, where that cannot be seen in them.
    norm_names: Mapping[str, str] = field(default_factory=dict)
    """Names of norms that mean other norms elsewhere."""
    paired: bool = False
    """Rows of queries and keys that are rotated together stand side by side."""
    paired_key: str | None = None
    """The key that is false where they do not."""
    matrices_transposed: bool = False
    """Matrices of attention and feed-forward are (in, out)."""
    qkv_by_head: bool = False
    """One tensor for queries, keys and values, with the three of each head together."""
    experts_transposed: bool = False
    """The matrices of packed experts are (in, out)."""
    gate_up_alternating: bool = False
    """Of packed experts, rows of gate and up projection alternate."""
