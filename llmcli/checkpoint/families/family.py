"""`Family`: how one model family of Hugging Face checkpoints differs from Llama, as data; see `registry`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmcli.checkpoint.families import extra_rules, layer_rules, mixer_rules, shape_rules
from llmcli.checkpoint.families.bias_keys import BiasKeys
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.rope_keys import RopeRules
from llmcli.model import ExpertsConfig, Heads, NormStyle, QueryScaling
from llmcli.model.config import Placement, QKNorm


@dataclass(frozen=True)
class Family:
    """The ways in which a family differs from Llama."""

    defaults: Mapping[str, object] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys that replace the usual ones."""
    norm: NormStyle = field(default_factory=NormStyle)
    placement: Placement = "pre"
    qk_norm: QKNorm | None = None
    sinks: bool = False
    gated: bool = True
    kinds: tuple[str, ...] = layer_rules.ATTENTION
    """The types of layers that the family has."""
    layer_types: Callable[[ConfigKeys, int], list[str]] = layer_rules.all_full
    rope_on: Callable[[ConfigKeys, list[str]], list[bool]] = layer_rules.always_rope
    rope: RopeRules = field(default_factory=RopeRules)
    query_scaling: Callable[[ConfigKeys, list[bool]], list[QueryScaling | None]] = layer_rules.no_query_scaling
    experts: Callable[[ConfigKeys, int], list[ExpertsConfig | None]] | None = None
    heads: Callable[[ConfigKeys, list[str]], list[Heads | None]] = shape_rules.same_heads
    layer_extras: Callable[[ConfigKeys, list[str]], list[dict[str, Any]]] = shape_rules.no_layer_extras
    """Further fields of `LayerConfig`, for each layer."""
    extras: Callable[[ConfigKeys], dict[str, Any]] = extra_rules.no_extras
    """Further fields of `ModelConfig`."""

    scales: Callable[[ConfigKeys], Mapping[str, tuple[tuple[int, float], ...]]] = mixer_rules.no_scales
    """Constants that the rows of parameters of a layer are multiplied by when they are read: by the parameter's name,
    (rows, factor) of one part after the other."""
    left_out: Callable[[ConfigKeys], frozenset[int]] = layer_rules.none_left_out
    """Layers of the files that text without images does not go through."""
    capped_in_wrappers: bool = False
    """Whether `final_logit_softcapping` also applies to the text model inside a multimodal one."""
    lists_layer_types: bool = False
    """Whether `layer_types` may list the type of each layer; otherwise the family's rule decides."""
    biases: BiasKeys = field(default_factory=BiasKeys)
    sections: tuple[str, ...] = ()
    """Nested objects whose keys count as keys of the file."""
    supported_values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys that `transformers` reads, with the only values that this program supports; an absent key is fine too."""

    # How tensors are stored, if the tensors themselves do not show it.
    own_names: Mapping[str, str] = field(default_factory=dict)
    """Our names of parts -> the family's, where a name means another part in other families."""
    paired: bool = False
    """Whether the two rows of a rotated pair, of queries and keys, are stored next to each other."""
    paired_key: str | None = None
    """A key of `config.json` that is false if they are not."""
    gate_in_queries: bool = False
    """Whether the rows of attention's gate follow those of the queries, head by head, in one tensor."""
    paired_index: bool = False
    """Whether the two rows of a rotated pair, of queries and keys of an index, are stored next to each other."""
    matrices_transposed: bool = False
    """Whether matrices of attention and feed-forward are (in, out)."""
    qkv_order: Literal["joined", "by_head", "by_quarter"] = "joined"
    """Rows of the fused query-key-value tensor: all queries, all keys, all values; for each key head its query heads,
    the key and the value; or queries, values, keys of each quarter of the heads."""
    first_position: int = 0
    """The row of the learned positions that belongs to the first token."""
    sinusoids: bool = False
    """Whether positions are sines and cosines, which the files do not hold."""
    turned_back: bool = False
    """Whether rotations turn the other way, which is undone by exchanging the halves of queries and keys."""
    optional_selection_bias: bool = False
    """Whether files may leave out the bias that affects which experts are chosen; it is then zero."""
    last_output_bias: str | None = None
    """The name of the bias of attention's output that only the last layer has."""
    spare_embeddings: bool = False
    """Whether the embedding matrix may have more rows than the head, for tokens that are never generated."""
    adapters: bool = False
    """Whether the files hold low-rank adapters for images and sound, which text does not go through."""
    experts_transposed: bool = False
    """Whether the matrices of packed experts are (in, out)."""
    gate_up_alternating: bool = False
    """Whether rows of the gate and up projections of packed experts alternate."""
