"""Map parameters of our model to the tensors of Hugging Face checkpoints.

Over all families, each part of a model has a handful of names and of packed layouts. The tensors themselves show which
of them a checkpoint uses; the family decides only where one name has several meanings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.huggingface.mixers import MixerTensors, mixer_of
from llmcli.checkpoint.huggingface.names import FUSED_QKV, TensorNames
from llmcli.checkpoint.huggingface.streams import index_source, stream_source
from llmcli.checkpoint.tensors.computed_sources import Sinusoids, Turned, WholeNumbers, Zeros
from llmcli.checkpoint.tensors.gguf_parameter_sources import KeysAndValues
from llmcli.checkpoint.tensors.latent_pairs import latent_pairs
from llmcli.checkpoint.tensors.parameter_sources import (
    Joined,
    OneRow,
    PairedRows,
    ParameterSource,
    Rearranged,
    Source,
    Stacked,
)
from llmcli.checkpoint.tensors.recurrent_sources import Reshaped, Scaled, queries_or_gate
from llmcli.checkpoint.tensors.tensor_info import StoredTensor
from llmcli.model.config import ExpertsConfig, Heads, LayerConfig, ModelConfig

# Even values, then odd values.
_EVEN_ODD = (slice(0, None, 2), slice(1, None, 2))
_PARAMETER = re.compile(r"(?:layers\.(\d+)\.)?(.+)")
_TRANSPOSED_MATRICES = ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
_FUSED_GATE_UP = (
    "mlp.gate_up_proj",
    "mlp.Wi",
    "shared_mlp.input_linear",
    "feed_forward.gate_up_proj",
    "ffn.proj_up_gate_z",
)
_KEYS_AND_VALUES = ("embed_q", "unembed_out")
# Stacks of matrices that files hold one by one.
_STREAMS = {
    "altup_streams.projections": "altup_projections",
    "altup_streams.unembed_projections": "altup_unembed_projections",
}
_EXPERT_STACKS = ("mlp.experts", "feed_forward.experts", "block_sparse_moe.experts", "experts")
# Other names of two stacks.
_STACKS = {"gate_up_proj": "fc1.weight", "down_proj": "fc2.weight"}
# Names of single experts: the prefix before the number, and the names of gate, up and down after it.
_SINGLE_EXPERTS = (
    ("mlp.experts", "gate_proj", "up_proj", "down_proj"),
    ("mlp.switch_mlp", "gate_proj", "up_proj", "down_proj"),
    ("block_sparse_moe.switch_mlp", "gate_proj", "up_proj", "down_proj"),
    ("feed_forward.experts", "gate_proj", "up_proj", "down_proj"),
    ("feed_forward.experts", "w1", "w3", "w2"),
    ("experts.switch_glu", "gate_proj", "up_proj", "down_proj"),
    ("block_sparse_moe.experts", "w1", "w3", "w2"),
    ("moe", "linear", "linear_v", "linear_1"),
    ("mixer.experts", "", "up_proj", "down_proj"),
    ("ffn.experts", "w1", "w3", "w2"),
)


@dataclass(frozen=True)
class HFTensors:
    """The tensors of one checkpoint, looked up by parameters of our model."""

    names: TensorNames
    stored: Mapping[str, StoredTensor]
    family: Family
    config: ModelConfig
    scales: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """Constants that the rows of parameters of a layer are multiplied by; see `Family`."""

    def source(self, parameter: str) -> ParameterSource:
        """How to read a parameter; if its tensor is missing, a source with the name it should have."""
        layer, local = _PARAMETER.fullmatch(parameter).groups()  # type: ignore[union-attr]
        if local == "embed_positions.weight":
            return self._positions(self.names.find("", local))
        if layer is None and local in _STREAMS:
            count = 0 if self.config.altup is None else self.config.altup.streams - 1
            return Stacked(
                tuple(Source(self.names.full(f"{_STREAMS[local]}.{index}.weight")) for index in range(count))
            )
        if local == "embed_tokens.weight" and self.family.spare_embeddings:
            return self._first_embeddings(self.names.find("", local))
        if layer is None:
            return stream_source(self.names, "", local, self.config, None) or Source(self.names.find("", local))
        at, of = self.names.layer(int(layer)), self.config.layers[int(layer)]
        # Of two networks beside each other.
        local = local.removeprefix("mixers.")
        mixer = mixer_of(of, local)
        if mixer is not None:
            return self._scaled(local, MixerTensors(self.names, at, self.config, mixer).source(local))
        return self._scaled(local, self._of_layer(at, local, of))

    def _scaled(self, local: str, source: ParameterSource) -> ParameterSource:
        """The source of a parameter of a layer, times the family's constants."""
        factors = self.scales.get(local)
        if factors is None or all(factor == 1 for _, factor in factors):
            return source
        assert isinstance(source, Source) and source.pairs is None and source.ranges is None
        return Scaled(source.name, factors)

    def _of_layer(self, at: str, local: str, of: LayerConfig) -> ParameterSource:
        """The source of a parameter of the layer with the prefix `at`, except of its recurrent network."""
        experts = of.experts
        if experts is not None and local.startswith("mlp.experts."):
            return self._experts(at, local.removeprefix("mlp.experts."), experts)
        stream = stream_source(self.names, at, local, self.config, of.ngram)
        if stream is not None:
            return stream
        module, _, kind = local.rpartition(".")
        if of.block_index is not None and module in ("self_attn.indexer.q_proj", "self_attn.indexer.k_proj"):
            return index_source(self.names, at, module, of.block_index)
        if local == "self_attn.o_proj.bias" and self.family.last_output_bias is not None:
            name = at + self.family.last_output_bias
            return Source(self.names.full(name)) if self.names.has(name) else Zeros((self.config.hidden_size,))
        if module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            return self._projection(at, module, kind, of)
        if module == "self_attn.gate_proj" and self.family.gate_in_queries:
            name = self.names.find(at, f"self_attn.q_proj.{kind}")
            return queries_or_gate(name, self.config.heads_of(of), 1)
        if module in ("self_attn.q_norm", "self_attn.k_norm") and self.config.qk_norm == "each_head":
            return self._norm_of_each_head(at, module, kind, of)
        gate_or_up = module.startswith("mlp.") and module.endswith(("gate_proj", "up_proj"))
        fused = self.names.first_of(at, _FUSED_GATE_UP, kind) if gate_or_up else None
        if fused is not None:
            return self._gate_or_up(fused, module, of)
        name = self.names.find(at, local)
        if kind.startswith("time_mix_"):
            return Reshaped(name, (self.config.hidden_size,))
        if local == "mlp.gate.e_score_correction_bias":
            absent = self.family.optional_selection_bias and name not in self.stored
            return Zeros((experts.count,)) if absent and experts is not None else OneRow(name)
        if local == "mlp.gate.tid2eid" and experts is not None:
            return WholeNumbers(name, experts.count)
        if self.config.latent is not None:
            if module == "self_attn.kv_b_proj" and self.names.has(f"{at}self_attn.embed_q.weight"):
                # As MLX stores it.
                return KeysAndValues(*(self.names.full(f"{at}self_attn.{part}.weight") for part in _KEYS_AND_VALUES))
            return Source(name, self._latent_pairs(module, of))
        if kind == "weight" and module in _TRANSPOSED_MATRICES and self._matrices_transposed():
            return Rearranged(name, transposed=True)
        return Source(name)

    def _projection(self, at: str, module: str, kind: str, layer: LayerConfig) -> ParameterSource:
        """The source of queries, keys or values: their own tensor, or their rows of a fused one."""
        config = self.config
        if config.latent is not None:
            return Source(self.names.find(at, f"{module}.{kind}"), self._latent_pairs(module, layer))
        shape = config.heads_of(layer)
        pairs = self._pairs(layer) if module != "self_attn.v_proj" else None
        fused = self.names.first_of(at, FUSED_QKV, kind)
        if fused is None:
            name = self.names.find(at, f"{module}.{kind}")
            if self.family.turned_back and module != "self_attn.v_proj":
                rows = shape.rows[0] if module == "self_attn.q_proj" else shape.rows[1]
                return Source(name, None, _halves_exchanged(rows, shape.key_dim), rows)
            if self.family.gate_in_queries and module == "self_attn.q_proj":
                return queries_or_gate(name, shape, 0)
            return Source(name, pairs)
        which = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(module)
        sizes = shape.rows
        rows = sum(sizes)
        if self.family.qkv_order != "joined":
            return Source(fused, pairs, self._qkv_ranges(shape, which), rows)
        start, count = sum(sizes[:which]), sizes[which]
        if kind == "weight" and self._matrices_transposed():
            return Rearranged(fused, transposed=True, picks=(slice(start, start + count),))
        return Source(fused, pairs, ((start, start + count),), rows)

    def _first_embeddings(self, name: str) -> Source:
        """The embeddings of the tokens that the head knows."""
        needed, stored = self.config.vocab_size, self.stored.get(name)
        rows = needed if stored is None else stored.shape[0]
        return Source(name, None, ((0, needed),), rows) if rows > needed else Source(name)

    def _positions(self, name: str) -> ParameterSource:
        """The vectors of positions: of a table whose first rows may belong to no token, or computed."""
        first, count = self.family.first_position, self.config.context_length
        if self.family.sinusoids:
            return Sinusoids(first, count, self.config.hidden_size)
        return Source(name, None, ((first, first + count),), first + count) if first else Source(name)

    def _qkv_ranges(self, shape: Heads, which: int) -> tuple[tuple[int, int], ...]:
        """The rows of queries (0), keys (1) or values (2) in a fused tensor that keeps parts of the three together."""
        queries, keys, values = shape.rows
        # For each key head, the query heads that share it, the key and the value; or, made for four machines, queries,
        # values and keys of each quarter of the heads.
        by_head = self.family.qkv_order == "by_head"
        parts = shape.kv_count if by_head else 4
        sizes = (queries // parts, keys // parts, values // parts)
        before = (0, sizes[0], sizes[0] + sizes[1]) if by_head else (0, sizes[0] + sizes[2], sizes[0])
        starts = (part * sum(sizes) + before[which] for part in range(parts))
        return tuple((start, start + sizes[which]) for start in starts)

    def _matrices_transposed(self) -> bool:
        """Whether matrices are stored transposed; MLX stores those of such families straight."""
        fused = self.names.first_of(self.names.layer(0), FUSED_QKV, "weight")
        straight = fused is not None and self.stored[fused].shape[:1] != (self.config.hidden_size,)
        return self.family.matrices_transposed and not straight

    def _norm_of_each_head(self, at: str, module: str, kind: str, layer: LayerConfig) -> ParameterSource:
        shape = self.config.heads_of(layer)
        heads = shape.count if module == "self_attn.q_norm" else shape.kv_count
        single = [f"{at}{module.replace('_norm', '_layernorm')}.norms.{head}.{kind}" for head in range(heads)]
        if self.names.has(single[0]):
            return Stacked(tuple(Source(self.names.full(name)) for name in single))
        return Rearranged(
            self.names.find(at, f"{module}.{kind}"), picks=_EVEN_ODD if self.family.paired else (slice(None),)
        )

    def _pairs(self, layer: LayerConfig) -> PairedRows | None:
        """The stored order of query and key rows if rotated pairs are adjacent; else None."""
        rope = layer.rope or next((layer.rope for layer in self.config.layers if layer.rope is not None), None)
        if rope is None or not self.family.paired:
            return None
        return PairedRows(self.config.heads_of(layer).key_dim, 0, rope.rotary_dim)

    def _latent_pairs(self, module: str, layer: LayerConfig) -> PairedRows | None:
        paired, paired_index = self.family.paired, self.family.paired_index
        return latent_pairs(self.config.latent, layer, module, paired=paired, paired_index=paired_index)

    def _gate_or_up(self, fused: str, module: str, layer: LayerConfig) -> ParameterSource:
        """Gate or up projection in a fused tensor, which has the rows of gate before those of up."""
        size = self.config.width_of(layer) if layer.experts is None else layer.experts.shared_size
        start = 0 if module.endswith("gate_proj") else size
        return Source(fused, None, ((start, start + size),), 2 * size)

    def _experts(self, at: str, what: str, experts: ExpertsConfig) -> ParameterSource:
        """The source of one of the four expert stacks: `gate_up_proj`, `down_proj` and their biases."""
        inner, kind = not what.startswith("down_proj"), "bias" if what.endswith("_bias") else "weight"
        linear = "block_sparse_moe.input_linear" if inner else "block_sparse_moe.output_linear"
        if self.names.has(f"{at}{linear}.{kind}"):
            return Source(self.names.full(f"{at}{linear}.{kind}"))
        for stack in _EXPERT_STACKS:
            for name in (what, _STACKS.get(what, what)):
                if self.names.has(f"{at}{stack}.{name}"):
                    return self._packed(f"{at}{stack}.{name}", what, experts)
        if self.names.has(f"{at}ffn.experts.mlp.w1"):
            return self._experts_in_rows(f"{at}ffn.experts.mlp.", experts, gate_up=inner)
        if what == "gate_up_proj" and self.names.has(f"{at}mlp.experts.0.gate_up_proj.weight"):
            # gpt-oss in 4 bits.
            pairs = PairedRows(2 * experts.intermediate_size) if self.family.gate_up_alternating else None
            single = (self.names.full(f"{at}mlp.experts.{expert}.{what}.weight") for expert in range(experts.count))
            return Stacked(tuple(Source(name, pairs) for name in single))
        for stack, gate, up, down in _SINGLE_EXPERTS:
            if self.names.has(f"{at}{stack}.0.{down}.weight"):
                parts = (down,) if not inner else (gate, up) if experts.gated else (up,)
                return Stacked(
                    tuple(
                        Joined(tuple(Source(self.names.full(f"{at}{stack}.{expert}.{part}.{kind}")) for part in parts))
                        for expert in range(experts.count)
                    )
                )
        return Source(self.names.full(f"{at}mlp.experts.{what}"))

    def _experts_in_rows(self, stack: str, experts: ExpertsConfig, *, gate_up: bool) -> ParameterSource:
        """DBRX: the rows of all experts in one matrix, and those of the second projection transposed."""
        size, rows = experts.intermediate_size, experts.count * experts.intermediate_size
        parts = [((start, start + size),) for start in range(0, rows, size)]
        if not gate_up:
            return Stacked(tuple(Turned(Source(self.names.full(f"{stack}w2"), None, part, rows)) for part in parts))
        names = [self.names.full(f"{stack}{which}") for which in ("w1", "v1")]
        return Stacked(tuple(Joined(tuple(Source(name, None, part, rows) for name in names)) for part in parts))

    def _packed(self, stack: str, what: str, experts: ExpertsConfig) -> ParameterSource:
        """The stack `stack` in one tensor, perhaps transposed, or with alternating rows of gate and up."""
        name = self.names.full(stack)
        picks = _EVEN_ODD if self.family.gate_up_alternating and what.startswith("gate_up") else (slice(None),)
        if what.endswith("_bias"):
            return Rearranged(name, picks=picks)
        # gpt-oss is stored both ways (plain and in 4 bits); the shape of gate and up shows which.
        gate_up = self.stored.get(self.names.full(stack.replace("down_proj", "gate_up_proj").replace("fc2.", "fc1.")))
        straight = (experts.count, 2 * experts.intermediate_size, self.config.hidden_size)
        exchanged = (straight[0], straight[2], straight[1])
        transposed = self.family.experts_transposed
        if gate_up is not None and gate_up.shape != (exchanged if transposed else straight):
            transposed = gate_up.shape == exchanged
        if not transposed and picks == (slice(None),):
            return Source(name)
        return Rearranged(name, transposed=transposed, picks=picks)


def _halves_exchanged(rows: int, size: int) -> tuple[tuple[int, int], ...]:
    """Ranges of the rows of heads of `size` rows, the second half of each head before the first."""
    halves = ((start, start + size // 2, start + size) for start in range(0, rows, size))
    return tuple(part for start, middle, end in halves for part in ((middle, end), (start, middle)))
