"""The sizes and options that define a model.

A model family is data here: options that differ from layer to layer are in `LayerConfig`, so the modules never check
which family they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llmcli.model.mixer_config import MixerConfig, ShortConvConfig
from llmcli.model.residual_config import (
    AltupConfig,
    GatedResidualConfig,
    HyperConfig,
    NgramConfig,
    PerLayerConfig,
)
from llmcli.model.rope_config import RopeConfig
from llmcli.model.shared_row_config import BlocksConfig, SharedRowConfig

INT8_GROUP = 32
"""Numbers of a key or value that share a scale in a cache of 8 bits."""

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu", "xielu"]
"""xIELU has two learned numbers in each layer."""

Placement: TypeAlias = Literal["pre", "post", "sandwich", "parallel", "parallel_shared", "sum"]
"""Where a block normalizes: the inputs of attention and feed-forward ("pre", GPT-2 and Llama), their outputs ("post"),
or both ("sandwich"). In a "parallel" block both read the block's input, each through its own norm or, with
"parallel_shared", through one norm. With "sum" the residual stream itself is normalized after each addition (GPT-1).
"""

QKNorm: TypeAlias = Literal["head", "whole", "each_head", "weightless", "rotated", "rotated_head"]
"""How queries and keys are normalized: over each head with one weight for all heads ("head"), over all heads at once
("whole"), over each head with a separate weight per head ("each_head"), over each head without a weight ("weightless"),
or over each head after the rotation: without a weight ("rotated"; layers without rotation have no norm then), or with
one weight for all heads ("rotated_head").
"""


@dataclass(frozen=True)
class NormStyle:
    """Which normalization a model uses. The variants differ visibly in low precision."""

    kind: Literal["rms", "layer", "none"] = "rms"
    """With "none" the input is left as it is."""
    weight: bool = True
    bias: bool = False
    plus_one: bool = False
    """The stored weight is centered on zero: the factor is 1 + weight."""
    round_first: bool = True
    """Round to the activations' type before the weight is applied instead of after."""
    float32: bool = False
    """Keep the weight in float32 in a model of any type."""


@dataclass(frozen=True)
class QueryScaling:
    """Queries grow with the position: times `1 + beta ln(1 + floor((position + offset) / interval))`.

    Keeps attention sharp over long contexts (Nakanishi 2025, arXiv:2501.19399).
    """

    beta: float
    interval: int
    offset: int = 0


@dataclass(frozen=True)
class Heads:
    """The shape of a layer's attention."""

    count: int
    """Query heads."""
    kv_count: int
    """Key-value heads, each shared by `count / kv_count` query heads."""
    key_dim: int
    """Dimensions of a query and of a key."""
    value_dim: int

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows of the projections to queries, keys and values."""
        return self.count * self.key_dim, self.kv_count * self.key_dim, self.kv_count * self.value_dim


@dataclass(frozen=True)
class AttentionGate:
    """What the heads found is multiplied by an activation of a projection of the layer's input (arXiv:2505.06708)."""

    per_head: bool = False
    """One number for each head instead of one for each of its values."""
    activation: Literal["sigmoid", "softplus"] = "sigmoid"


@dataclass(frozen=True)
class Alibi:
    """Scores fall linearly with the distance, with a slope for each head (Press et al. 2021, arXiv:2108.12409)."""

    as_score: bool = False
    """Round the biases to bfloat16 and multiply them by the scale of the scores, as Falcon does."""


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): sizes of its parts."""

    query_rank: int | None
    """Size of the compressed query; None: queries come straight from the hidden state."""
    rank: int
    """Size of the latent that keys and values are made from; a layer caches this and one rotated key per position."""
    nope_dim: int
    """Dimensions of each query and key head without positions."""
    rope_dim: int
    """Dimensions of each query and key head with positions; all heads share one rotated key."""
    value_dim: int

    @property
    def query_dim(self) -> int:
        """Dimensions of a query head."""
        return self.nope_dim + self.rope_dim


@dataclass(frozen=True)
class KeyIndexConfig:
    """An index that chooses the keys, or the compressed blocks, that a token sees (DeepSeek-V3.2, arXiv:2512.02556)."""

    heads: int
    size: int
    """Dimensions of a query and of the one key of the index; keys are cached beside the latent."""
    chosen: int
    """The most keys, or blocks, that a token sees."""


@dataclass(frozen=True)
class BlockIndexConfig:
    """An index that chooses blocks of consecutive keys for a token of attention (Qwen4-exp's sparse attention)."""

    heads: int
    size: int
    """Dimensions of a query and of the one key of the index; keys are cached beside the values."""
    block: int
    """Keys of a block."""
    chosen: int
    """The most blocks that a token sees, besides the keys up to itself that fill no block."""


@dataclass(frozen=True)
class HeadLayer:
    """A dense layer, an activation and a norm between the final norm and the output head (ModernBERT's decoders)."""

    activation: Activation = "gelu"
    bias: bool = False


@dataclass(frozen=True)
class ClampedGLU:
    """The expert activation of gpt-oss: `(clip(up) + 1) * min(gate, limit) * sigmoid(alpha * min(gate, limit))`."""

    alpha: float
    limit: float


RouterScore: TypeAlias = Literal[
    "softmax",
    "sigmoid",
    "sqrt_softplus",
    "softmax_of_chosen",
    "sigmoid_of_chosen",
    "sigmoid_of_biased",
    "sparse_mixing",
]
"""How router outputs become weights: over all experts, or over those chosen by their raw output ("..._of_chosen").

With "sigmoid_of_biased" the selection bias is added to the raw output for the choice. With "sparse_mixing"
(arXiv:2409.12136) experts are chosen one after the other, each weighted by a softmax over those that are about as good.
"""


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of experts in place of one feed-forward network (Shazeer et al. 2017, arXiv:1701.06538)."""

    count: int
    chosen: int
    """Experts that each token is sent to."""
    intermediate_size: int
    score: RouterScore = "softmax"
    mixing_range: float = 0.0
    """Sparse mixing: experts whose output is further than this below the best one, relative to it, do not count."""
    router_softcap: float | None = None
    """Router outputs `z` become `cap * tanh(z / cap)`."""
    normalized: bool = False
    """Divide the weights of the chosen experts by their sum."""
    scale: float = 1.0
    """Factor on all weights."""
    scales_input: bool = False
    """Multiply the expert's input by its weight instead of its output."""
    groups: int = 1
    groups_chosen: int = 1
    """Experts are chosen within the best groups (DeepSeek-V3, arXiv:2412.19437, section 2.1.2)."""
    group_score: Literal["best", "best_two"] = "best"
    """A group's score: that of its best expert, or the sum of its best two."""
    float32_router: bool = False
    """Keep the router's weights, and compute its outputs, in float32."""
    router_bias: bool = False
    selection_bias: bool = False
    """A bias that affects which experts are chosen, but not their weights; kept in float32."""
    bias: bool = False
    """The experts have biases."""
    glu: ClampedGLU | None = None
    """None: `act(gate) * up`."""
    limit: float | None = None
    """Clamp gates from above and the second projection on both sides, before the activation, in the experts and in the
    shared expert; None: they are not clamped."""
    by_token: bool = False
    """A table has the experts of each token of the vocabulary; the router only weights them (hash layers,
    arXiv:2106.04426)."""
    gated: bool = True
    """Whether the experts and the shared expert multiply their activations by a second projection."""
    latent_size: int | None = None
    """Experts read a projection of the input to this size, and their sum is projected back; None: the input itself."""
    shared_size: int = 0
    """Size of the shared expert, which every token goes through; 0: none."""
    shared_gate: bool = False
    """The shared expert's output is multiplied by a learned sigmoid gate."""
    shared_scale: float = 1.0
    """Factor on the shared expert's output."""
    output_norm: bool = False
    """Normalize the mixture's output, where the placement is "pre"."""
    router_scale: bool = False
    """The router's input is normalized and multiplied by a learned vector."""
    expert_scale: bool = False
    """Each expert has a learned factor on its weights, applied after they are normalized."""
    own_norms: bool = False
    """Experts and shared expert each have norms of their input and output; the router reads the residual stream."""
    held: tuple[int, int] | None = None
    """The experts, from the first to before the last, that this rank of several has; None: all."""

    @property
    def held_range(self) -> tuple[int, int]:
        """The experts whose weights are here, from the first to before the last."""
        return self.held or (0, self.count)


@dataclass(frozen=True)
class LayerConfig:
    """The options that may differ from one block to the next."""

    rope: RopeConfig | None
    """None: this layer's attention uses no rotary positions."""
    window: int | None = None
    """Sliding window: the number of keys a query sees, its own included; None: all earlier ones."""
    chunk: int | None = None
    """A query sees back to the last position that is a multiple of `chunk`; None: no such limit."""
    experts: ExpertsConfig | None = None
    """None: one feed-forward network."""
    ngram: NgramConfig | None = None
    """Embeddings of n-grams that are added to the residual streams before attention; None: there are none."""
    query_scaling: QueryScaling | None = None
    heads: Heads | None = None
    """The shape of the attention; None: that of `ModelConfig`."""
    intermediate_size: int | None = None
    """Of the feed-forward network that is not experts; None: that of `ModelConfig`."""
    kv_from: int | None = None
    """An earlier layer, whose keys and values this layer reads instead of computing and caching its own."""
    index: KeyIndexConfig | None = None
    """None: a token sees all keys that the mask allows, or those that `index_from` chose."""
    index_from: int | None = None
    """An earlier layer, whose choice of keys this layer uses."""
    blocks: BlocksConfig | None = None
    """Compressed blocks that tokens see besides the keys in the window, all that are complete or those that `index`
    chooses; None: there are none."""
    block_index: BlockIndexConfig | None = None
    """None: a token sees all keys that the mask allows."""
    key_is_value: bool = False
    """Values are the projected keys, before their norm and rotation."""
    input_norm: bool = True
    """Attention reads a normalized residual stream, where the placement has a norm there."""
    sinks: bool = False
    """Each head has a learned score in the softmax that stands for attending to nothing."""
    sparsity: float | None = None
    """Standard deviations above their mean up to which gate activations are cut off; None: none are cut off."""
    mixer: MixerConfig | None = None
    """What the layer has instead of attention; None: attention. The window of a short convolution is its width."""
    beside: MixerConfig | None = None
    """A second network that reads the same normalized input as the first; their outputs are added. None: none."""
    channel_mixing: bool = False
    """The feed-forward network also reads the token before, and a gate multiplies its output (RWKV-4)."""
    parts: Literal["both", "mixer", "feed_forward"] = "both"
    """Whether the layer has only attention, or what replaces it, or only a feed-forward network."""

    placement: Placement | None = None
    """Where the layer normalizes; None: as `ModelConfig` says."""

    @property
    def attends(self) -> bool:
        """Whether the layer has attention."""
        return self.mixer is None and self.parts != "feed_forward"

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """What the layer has instead of attention or beside it."""
        return tuple(mixer for mixer in (self.mixer, self.beside) if mixer is not None)

    @property
    def has_state(self) -> bool:
        """Whether the layer remembers the text in a state of fixed size."""
        if self.channel_mixing or self.ngram is not None:
            return True
        return any(mixer.tail_values + mixer.sum_values > 0 for mixer in self.mixers)

    @property
    def is_windowed(self) -> bool:
        """Whether the cache may drop old keys, because no later query sees them."""
        return self.window is not None or self.chunk is not None

    def first_visible(self, position: int) -> int:
        """The first key that the query at `position` sees."""
        if self.window is not None:
            return max(0, position - self.window + 1)
        return 0 if self.chunk is None else position // self.chunk * self.chunk


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes, without defaults, then the options in which model families differ.

    Sizes of attention and feed-forward are those of the usual layer: `LayerConfig` may state others for a layer.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Of the feed-forward networks that are not experts."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    """The most positions the model was trained for, prompt and reply together."""
    norm_eps: float
    layers: tuple[LayerConfig, ...]

    activation: Activation = "silu"
    gated: bool = True
    """Whether the feed-forward network multiplies its activations by a second projection."""
    norm: NormStyle = field(default_factory=NormStyle)
    final_norm: NormStyle | None = None
    """The norm in front of the output head; None: like `norm`."""
    post_norm_eps: float | None = None
    """Of the norms of the outputs of attention and feed-forward; None: `norm_eps`."""
    sub_norms: bool = False
    """Normalize what the output projections of attention and feed-forward read (BitNet)."""
    placement: Placement = "pre"
    qk_norm: QKNorm | None = None
    value_norm: bool = False
    """Normalize each head of the values, without a weight."""
    qkv_clip: float | None = None
    """Clamp queries, keys and values to this magnitude."""
    attention_scale: float | None = None
    """Factor on the scores; None: `1 / sqrt(size of a query head)`."""
    attention_softcap: float | None = None
    """Scores `s` become `cap * tanh(s / cap)`."""
    alibi: Alibi | None = None
    """Scores are biased by distance; None: they are not."""
    attention_gate: AttentionGate | None = None
    value_scale: float = 1.0
    """Factor on the values."""
    latent: LatentConfig | None = None
    """Latent attention: keys and values are made from a cached latent. None: keys and values are cached."""
    shared_row: SharedRowConfig | None = None
    """Attention whose heads share one row for each token. None: each key-value head has keys and values."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    learned_positions: bool = False
    """Add a learned vector for each position to the embedding."""
    embed_norm: NormStyle | None = None
    """Normalize the embeddings; None: do not."""
    embed_scale: float = 1.0
    """Factor on the embeddings."""
    embed_scale_rounded: bool = False
    """Round the factor to the weights' type first, as in training."""
    residual_scale: float = 1.0
    """Factor on the outputs of attention and feed-forward, where the placement is "pre" or "sandwich"."""
    head_layer: HeadLayer | None = None
    """None: the output head reads what the final norm returns."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    """Logits `z` become `cap * tanh(z / cap)`."""
    per_layer: PerLayerConfig | None = None
    altup: AltupConfig | None = None
    hyper: HyperConfig | None = None
    gated_residual: GatedResidualConfig | None = None
    layer_scale: bool = False
    """Multiply each layer's output, residual stream included, by a learned number."""
    held_tokens: tuple[int, int] | None = None
    """The tokens, from the first to before the last, whose rows of embedding and head this rank of several has.

    None: all.
    """
    tie_embeddings: bool = False
    """The output head is the embedding matrix itself."""
    int8_cache: bool = False
    """Keep keys and values in 8 bits: the choice of a user, not a property of the model."""

    @property
    def token_rows(self) -> int:
        """The rows of the embedding and of the head that are here."""
        first, stop = self.held_tokens or (0, self.vocab_size)
        return stop - first

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    @property
    def why_not_restartable(self) -> str | None:
        """Why blocks cannot be run on a residual stream alone, as words after a colon; None: they can."""
        if self.per_layer is not None or any(layer.ngram is not None for layer in self.layers):
            return "its blocks also read embeddings of their own"
        if any(layer.index_from is not None for layer in self.layers):
            return "some blocks see the keys that earlier blocks chose"
        if any(layer.experts is not None and layer.experts.by_token for layer in self.layers):
            return "some blocks choose experts by the token itself"
        shared = any(layer.kv_from is not None for layer in self.layers)
        return "some blocks read keys and values of earlier blocks" if shared else None

    @property
    def streams(self) -> int:
        """The number of residual streams."""
        several = self.altup or self.hyper or self.gated_residual
        return 1 if several is None else several.streams

    @property
    def has_state(self) -> bool:
        """Whether some layers remember the text in a state, which cannot forget single tokens."""
        return any(layer.has_state for layer in self.layers)

    def state_bytes(self, bytes_per_value: int) -> int:
        """Bytes of the states of all layers: tails in the activations' type, sums in float32, ids of tokens in 8."""
        mixers = [mixer for layer in self.layers for mixer in layer.mixers]
        found = sum(mixer.tail_values * bytes_per_value + mixer.sum_values * 4 for mixer in mixers)
        found += sum(self.hidden_size for layer in self.layers if layer.channel_mixing) * bytes_per_value
        for ngram in (layer.ngram for layer in self.layers if layer.ngram is not None):
            found += ngram.conv_seen * self.streams * self.hidden_size * bytes_per_value + (ngram.longest - 1) * 8
        return found

    @property
    def state_slots(self) -> int:
        """Places for states: those of the layers, then those of their feed-forward networks or n-gram embeddings if
        any has a state.
        """
        both = any(layer.channel_mixing or layer.ngram is not None for layer in self.layers)
        return self.num_layers * (2 if both else 1)

    def mark_bytes(self, bytes_per_value: int) -> int:
        """Bytes that a text needs to remember to be able to go back to a place: states, and what `marks_window` says.

        Of a layer with blocks, that is also what the blocks need that are not compressed yet.
        """
        seen = 0
        for layer in self.layers:
            if self.marks_window(layer):
                heads, *sizes = self.cached_widths(layer)
                seen += ((layer.window or 1) - 1) * heads * sum(sizes)
            if layer.blocks is not None:
                seen += layer.blocks.needed(self.context_length, self.block_size(layer))
        return self.state_bytes(bytes_per_value) + seen * bytes_per_value

    def marks_window(self, layer: LayerConfig) -> bool:
        """Whether a mark holds what the layer's window shows: a short convolution's inputs, or few shared rows."""
        return layer.window is not None and (isinstance(layer.mixer, ShortConvConfig) or self.shared_row is not None)

    def block_size(self, layer: LayerConfig) -> int:
        """Values that a layer caches for a compressed block: its row, and its key in the index."""
        return self.head_dim + (0 if layer.index is None else layer.index.size)

    @property
    def first_sharing(self) -> int:
        """The first of the last layers that all read keys and values of earlier ones; `num_layers` if there are none.

        For these layers, no token needs the output of an earlier token.
        """
        own = [index for index, layer in enumerate(self.layers) if layer.kv_from is None]
        return own[-1] + 1

    def placement_of(self, layer: LayerConfig) -> Placement:
        """Where a layer normalizes."""
        return layer.placement or self.placement

    def heads_of(self, layer: LayerConfig) -> Heads:
        """The shape of a layer's attention."""
        return layer.heads or Heads(self.num_heads, self.num_kv_heads, self.head_dim, self.head_dim)

    def width_of(self, layer: LayerConfig) -> int:
        """The size of a layer's feed-forward network that is not experts."""
        return layer.intermediate_size or self.intermediate_size

    def cached_widths(self, layer: LayerConfig) -> tuple[int, int, int]:
        """The shape of a layer's cache for one position: heads, size of a key, size of a value.

        A layer that reads another layer's keys and values, or has no attention, caches nothing: 0 heads. Latent
        attention caches one row for all heads, the latent and the rotated key, and in place of values the keys of its
        index. An index of blocks has its keys beside the values, each head with a part of them. A short convolution
        caches its inputs in place of keys, and heads that share a row cache that row.
        """
        if isinstance(layer.mixer, ShortConvConfig):
            return 1, self.hidden_size, 0
        if not layer.attends:
            return 0, 0, 0
        if self.latent is not None:
            return 1, self.latent.rank + self.latent.rope_dim, 0 if layer.index is None else layer.index.size
        if self.shared_row is not None:
            return 1, self.head_dim, 0
        heads = self.heads_of(layer)
        beside = 0 if layer.block_index is None else -(-layer.block_index.size // heads.kv_count)
        return heads.kv_count if layer.kv_from is None else 0, heads.key_dim, heads.value_dim + beside

    def caches_int8(self, layer: LayerConfig) -> bool:
        """Whether a layer caches its keys and values in 8 bits."""
        return self.int8_cache and layer.attends

    def cache_row(self, layer: LayerConfig, size: int) -> int:
        """What a key or value of `size` numbers takes in a layer's cache: bytes if it is in 8 bits, else numbers."""
        return size + 2 * -(-size // INT8_GROUP) if self.caches_int8(layer) else size

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of the KV cache for one position in all layers, where values are not in 8 bits `bytes_per_value`.

        A compressed block counts with its share for each of its tokens.
        """
        blocks = [(layer.blocks.rate, self.block_size(layer)) for layer in self.layers if layer.blocks is not None]
        shares = sum(-(-size * bytes_per_value // rate) for rate, size in blocks)
        return sum(self._cached_bytes(layer, bytes_per_value) for layer in self.layers) + shares

    def kv_bytes(self, tokens: int, bytes_per_value: int) -> int:
        """Bytes of the KV cache after `tokens` tokens; a layer with a window or chunks caches no more than that."""
        positions = sum(
            min(tokens, layer.window or layer.chunk or tokens) * self._cached_bytes(layer, bytes_per_value)
            for layer in self.layers
        )
        blocks = [(layer.blocks, self.block_size(layer)) for layer in self.layers if layer.blocks is not None]
        return positions + sum(each.entries(tokens, size) for each, size in blocks) * bytes_per_value

    def _cached_bytes(self, layer: LayerConfig, bytes_per_value: int) -> int:
        """Bytes that a layer caches for one position."""
        heads, *sizes = self.cached_widths(layer)
        each = 1 if self.caches_int8(layer) else bytes_per_value
        return heads * sum(self.cache_row(layer, size) for size in sizes) * each
