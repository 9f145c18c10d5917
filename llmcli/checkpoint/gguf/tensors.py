"""Map parameters of our model to the tensors of GGUF files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.gguf.mixers import gguf_mixer_source
from llmcli.checkpoint.huggingface.mixers import mixer_of
from llmcli.checkpoint.tensors.computed_sources import Constant, WholeNumbers
from llmcli.checkpoint.tensors.gguf_parameter_sources import Centered, KeysAndValues, SideBySide, SingleRow
from llmcli.checkpoint.tensors.latent_pairs import latent_pairs
from llmcli.checkpoint.tensors.parameter_sources import Joined, PairedRows, ParameterSource, Rearranged, Source, Stacked
from llmcli.checkpoint.tensors.recurrent_sources import queries_or_gate
from llmcli.errors import CheckpointError
from llmcli.model import LayerConfig, ModelConfig

_PARAMETER = re.compile(r"(?:layers\.(\d+)\.)?(.+)")
_NAMES = {
    "embed_tokens": "token_embd",
    "embed_positions": "position_embd",
    "embed_norm": "token_embd_norm",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "attention_output_norm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp_output_norm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.gate_proj": "attn_gate",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.indexer.q_proj": "indexer.attn_q_b",
    "self_attn.indexer.k_proj": "indexer.attn_k",
    "self_attn.indexer.k_norm": "indexer.k_norm",
    "self_attn.indexer.weight_proj": "indexer.proj",
    "self_attn.q_a_norm": "attn_q_a_norm",
    "self_attn.kv_proj": "attn_kv",
    "self_attn.kv_norm": "attn_kv_a_norm",
    "self_attn.o_a_proj": "attn_output_a",
    "self_attn.o_b_proj": "attn_output_b",
    "self_attn.compressed.indexer.q_proj": "indexer.attn_q_b",
    "self_attn.compressed.indexer.weight_proj": "indexer.proj",
    **{
        f"self_attn.compressed.{ours}.{part}": f"{theirs}_compressor_{short}"
        for ours, theirs in (("compressor", "attn"), ("indexer.compressor", "indexer"))
        for part, short in (("kv_proj", "kv"), ("gate_proj", "gate"), ("kv_norm", "norm"))
    },
    "self_attn.sub_norm": "attn_sub_norm",
    "mlp.sub_norm": "ffn_sub_norm",
    "per_layer_embeddings.embed_tokens": "per_layer_token_embd",
    "per_layer_embeddings.projection": "per_layer_model_proj",
    "per_layer_embeddings.norm": "per_layer_proj_norm",
    "per_layer_input.gate": "inp_gate",
    "per_layer_input.projection": "proj",
    "per_layer_input.norm": "post_norm",
    "altup.correction_coefs": "altup_correct_coef",
    "altup.prediction_coefs": "altup_predict_coef",
    "altup.modality_router": "altup_router",
    "altup.router_norm": "altup_router_norm",
    "laurel.linear_left": "laurel_l",
    "laurel.linear_right": "laurel_r",
    "laurel.post_laurel_norm": "laurel_post_norm",
    "mlp.shared_norm": "ffn_norm",
    "mlp.shared_output_norm": "post_ffw_norm_1",
    "mlp.experts_norm": "pre_ffw_norm_2",
    "mlp.experts_output_norm": "post_ffw_norm_2",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.latent_in": "ffn_latent_down",
    "mlp.latent_out": "ffn_latent_up",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# Parameters whose names do not end in weight or bias.
_WHOLE_NAMES = {
    "self_attn.sinks": "attn_sinks.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.gate.per_expert_scale": "ffn_down_exps.scale",
    "mlp.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "self_attn.compressed.compressor.position_bias": "attn_compressor_ape.weight",
    "self_attn.compressed.indexer.compressor.position_bias": "indexer_compressor_ape.weight",
    **{
        f"{ours}.{part}": f"{theirs}_{part}.weight"
        for ours, theirs in (("attn_hc", "hc_attn"), ("ffn_hc", "hc_ffn"), ("hyper_streams", "output_hc"))
        for part in ("fn", "base", "scale")
    },
    "layer_scalar": "layer_output_scale.weight",
    "altup_streams.projections": "altup_proj.weight",
    "altup_streams.unembed_projections": "altup_unembd_proj.weight",
    "altup.correct_output_scale": "altup_correct_scale.weight",
}
_SHARED = ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_EVEN_ODD = (slice(0, None, 2), slice(1, None, 2))
# RoPE tables: read with the configuration, repeated for each layer, or unused.
_TABLES = re.compile(r"(blk\.\d+\.)?(rope_freqs|rope_factors_long|rope_factors_short|attn_rot_embd)\.weight")
_KEYS_VALUES = re.compile(r"blk\.(\d+)\.attn_(k|v|k_norm)\.(weight|bias)")
_LAYER = re.compile(r"blk\.(\d+)\..+")


def is_ignored_gguf_tensor(name: str, first: int, count: int) -> bool:
    """Whether a tensor is a RoPE table, or part of the `count` multi-token-prediction layers from `first` on."""
    layer = _LAYER.fullmatch(name)
    return _TABLES.fullmatch(name) is not None or (
        layer is not None and len(layer[1]) < 10 and first <= int(layer[1]) < first + count
    )


def is_unread_gguf_kv(name: str, config: ModelConfig) -> bool:
    """Whether a tensor belongs to keys or values of a layer that reads another layer's; llama.cpp ignores it."""
    match = _KEYS_VALUES.fullmatch(name)
    index = int(match[1]) if match is not None and len(match[1]) < 6 else config.num_layers
    return index < config.num_layers and config.layers[index].kv_from is not None


@dataclass(frozen=True)
class GGUFTensors:
    """The tensors of one file, looked up by parameters of our model."""

    header: GGUFHeader
    config: ModelConfig
    paired: bool
    """Whether the two rows of a rotated pair, of queries and keys, are stored next to each other."""
    paired_index: bool = False
    """Whether the two rows of a rotated pair, of queries and keys of an index, are stored next to each other."""
    own_names: Mapping[str, str] = field(default_factory=dict)
    """Our names of parts -> the architecture's, where they differ from those of most."""

    def source(self, parameter: str) -> ParameterSource:
        """How to read a parameter; if its tensor is missing, a source with the name it should have."""
        layer, local = _PARAMETER.fullmatch(parameter).groups()  # type: ignore[union-attr]
        at = "" if layer is None else f"blk.{layer}."
        if local.startswith("mlp.activation."):
            return self._number(f"xielu.{local.removeprefix('mlp.activation.')}", int(layer))
        if local == "mlp.gate.tid2eid" and (experts := self.config.layers[int(layer)].experts) is not None:
            return WholeNumbers(at + _WHOLE_NAMES[local], experts.count)
        if local in _WHOLE_NAMES:
            return Source(at + _WHOLE_NAMES[local])
        if local.startswith("mlp.experts."):
            return self._experts(at, local.removeprefix("mlp.experts."), int(layer))
        of = None if layer is None else self.config.layers[int(layer)]
        # Of two networks beside each other.
        local = local.removeprefix("mixers.")
        mixer = None if of is None else mixer_of(of, local)
        if mixer is not None:
            return gguf_mixer_source(self.header, at, local, self.config, mixer)
        experts = None if of is None else of.experts
        if experts is not None and experts.own_norms:
            # The dense network beside the experts has the names of an ordinary one.
            local = local.replace("mlp.shared_expert.", "mlp.")
        module, _, kind = local.rpartition(".")
        bare = f"{at}{self._name(at, module)}"
        # The second norms of Falcon-H1 have no suffix.
        name = bare if self._has(bare) else f"{bare}.{kind}"
        if module in _QKV and self.config.latent is None:
            return self._projection(at, module, kind, self.config.layers[int(layer)])
        if module == "self_attn.gate_proj" and of is not None and not self._has(name):
            return queries_or_gate(f"{at}attn_q.{kind}", self.config.heads_of(of), 1)
        if module in ("mlp.gate_proj", "mlp.up_proj") and self.config.gated and not self._has(f"{at}ffn_gate.weight"):
            size = self.config.width_of(self.config.layers[int(layer)])
            start = 0 if module == "mlp.gate_proj" else size
            return Source(f"{at}ffn_up.{kind}", None, ((start, start + size),), 2 * size)
        if module in _SHARED and (experts is None or experts.gated) and not self._has(f"{at}ffn_gate_shexp.weight"):
            size = 0 if experts is None else experts.shared_size
            start = 0 if module == _SHARED[0] else size
            return Source(f"{at}ffn_up_shexp.{kind}", None, ((start, start + size),), 2 * size)
        if module == "self_attn.kv_b_proj" and self._has(f"{at}attn_k_b.weight"):
            return KeysAndValues(f"{at}attn_k_b.weight", f"{at}attn_v_b.weight")
        if module == "mlp.shared_expert_gate":
            return SingleRow(name)
        if module == "self_attn.indexer.k_norm":
            return Source(name, self._latent_pairs(module, layer))
        if module.endswith("norm"):
            return self._norm(name, module, kind)
        return Source(name, self._latent_pairs(module, layer))

    def _number(self, key: str, layer: int) -> Constant:
        """A parameter of one value, which the metadata list for each layer."""
        listed = self.header.metadata.get(key)
        value = listed[layer] if isinstance(listed, list) and layer < len(listed) else listed
        if not isinstance(value, float) or not math.isfinite(value):
            raise CheckpointError(f"{self.header.path}: {key} must be a number for each layer.")
        return Constant(value)

    def _has(self, name: str) -> bool:
        return name in self.header.tensors

    def _name(self, at: str, module: str) -> str:
        own = self.own_names.get(module)
        if own is not None and self._has(f"{at}{own}.weight"):
            return own
        name = _NAMES[module]
        # gpt-oss files name this norm by its place after attention, a name that other models use for another norm.
        if module == "post_attention_layernorm" and not self._has(f"{at}{name}.weight"):
            other = _NAMES["attention_output_norm"]
            return other if self.config.placement == "pre" and self._has(f"{at}{other}.weight") else name
        return name

    def _projection(self, at: str, module: str, kind: str, layer: LayerConfig) -> ParameterSource:
        """The source of queries, keys or values: their own tensor, or their rows of a fused one."""
        pairs = self._pairs(layer) if module != "self_attn.v_proj" else None
        fused = f"{at}attn_qkv.{kind}"
        if not self._has(fused):
            # The gate for each value has no separate tensor in some architectures.
            gate = self.config.attention_gate
            if module == _QKV[0] and gate is not None and not self._has(f"{at}attn_gate.weight"):
                return queries_or_gate(f"{at}attn_q.{kind}", self.config.heads_of(layer), 0)
            return Source(f"{at}{_NAMES[module]}.{kind}", pairs)
        which, sizes = _QKV.index(module), self.config.heads_of(layer).rows
        start = sum(sizes[:which])
        return Source(fused, pairs, ((start, start + sizes[which]),), sum(sizes))

    def _norm(self, name: str, module: str, kind: str) -> ParameterSource:
        if self.config.qk_norm == "each_head" and module.startswith("self_attn."):
            return Rearranged(name, picks=_EVEN_ODD if self.paired else (slice(None),))
        style = self.config.final_norm if module == "norm" else None
        if (style or self.config.norm).plus_one and kind == "weight":
            return Centered(name)
        return Source(name)

    def _pairs(self, layer: LayerConfig) -> PairedRows | None:
        """The stored order of query and key rows if rotated pairs are adjacent; else None."""
        rope = layer.rope or next((layer.rope for layer in self.config.layers if layer.rope is not None), None)
        # Without RoPE the order does not matter: it is the same for queries and keys.
        size = self.config.heads_of(layer).key_dim
        if not self.paired or rope is None:
            return None
        # In files of Bamba the rows of whole heads are paired, although only a part of each is rotated.
        return PairedRows(size, 0, None if self.config.has_state else rope.rotary_dim)

    def _latent_pairs(self, module: str, layer: str | None) -> PairedRows | None:
        of = None if layer is None else self.config.layers[int(layer)]
        return latent_pairs(self.config.latent, of, module, paired=self.paired, paired_index=self.paired_index)

    def _experts(self, at: str, what: str, layer: int) -> ParameterSource:
        """The source of one of the four expert stacks: `gate_up_proj`, `down_proj` and their biases."""
        kind = "bias" if what.endswith("_bias") else "weight"
        parts = ("ffn_gate", "ffn_up") if what.startswith("gate_up_proj") else (f"ffn_{what.partition('_')[0]}",)
        experts = self.config.layers[layer].experts
        if experts is not None and self._has(f"{at}{parts[0]}.0.{kind}"):
            # Older files have one matrix for each expert.
            if experts.count > len(self.header.tensors):
                raise CheckpointError(
                    f"{self.header.path} has an expert_count of {experts.count}, but holds only "
                    f"{len(self.header.tensors)} tensors."
                )
            return Stacked(
                tuple(
                    Joined(tuple(Source(f"{at}{part}.{expert}.{kind}") for part in parts))
                    for expert in range(experts.count)
                )
            )
        if len(parts) == 1 or self._has(f"{at}ffn_gate_up_exps.{kind}"):
            return Source(f"{at}{parts[0] if len(parts) == 1 else 'ffn_gate_up'}_exps.{kind}")
        return SideBySide(tuple(f"{at}{part}_exps.{kind}" for part in parts))
