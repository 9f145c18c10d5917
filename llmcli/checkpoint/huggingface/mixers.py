"""Map parameters of recurrent layers to the tensors of Hugging Face checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.checkpoint.tensors.parameter_sources import Joined, ParameterSource, Source
from llmcli.checkpoint.tensors.recurrent_sources import NegatedExponential, Reshaped, ba_by_key_head, qkvz_by_key_head
from llmcli.model import LayerConfig, ModelConfig
from llmcli.model.mixer_config import DeltaConfig, MixerConfig, MlstmConfig, RglruConfig, mixer_module
from llmcli.model.recurrent.parameters import mixer_parameters

# Modules of a layer that hold a recurrent network, the usual one first.
_MODULES = {
    "mamba": ("mamba", "mixer"),
    "linear_attn": ("linear_attn", "self_attn", "attention"),
    "conv": ("conv",),
    "rglru": ("temporal_block",),
    "mlstm": ("mlstm_layer",),
    "time_mixing": ("attention",),
}
# Our names of parts, and those of files.
_PARTS = {
    "dt_norm": ("dt_layernorm",),
    "b_norm": ("b_layernorm",),
    "c_norm": ("c_layernorm",),
    "conv1d": ("conv_1d",),
}
# The same for delta attention, whose queries, keys and values files keep apart.
_DELTA_PARTS = {
    "in_proj_z": ("g_proj",),
    "in_proj_z.linear_left": ("g_a_proj",),
    "in_proj_z.linear_right": ("g_b_proj",),
    "in_proj_a": ("f_proj", "a_proj"),
    "in_proj_a.linear_left": ("f_a_proj",),
    "in_proj_a.linear_right": ("f_b_proj",),
    "in_proj_b": ("b_proj",),
    "norm": ("o_norm", "out_norm"),
    "out_proj": ("o_proj", "dense"),
}
_DELTA_FUSED = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
_DELTA_JOINED = {"in_proj_qkv": ("q_proj", "k_proj", "v_proj"), "conv1d": ("q_conv1d", "k_conv1d", "v_conv1d")}


def mixer_of(layer: LayerConfig, local: str) -> MixerConfig | None:
    """The recurrent network of a layer that the parameter `local` belongs to; None: it belongs to another part."""
    module = local.partition(".")[0]
    return next((mixer for mixer in layer.mixers if mixer_module(mixer) == module), None)


@dataclass(frozen=True)
class MixerTensors:
    """The tensors of a recurrent network in one layer of a checkpoint."""

    names: TensorNames
    at: str
    """The prefix of the layer's tensors."""
    config: ModelConfig
    mixer: MixerConfig

    def source(self, local: str) -> ParameterSource:
        """How to read the parameter `local`, such as `mamba.in_proj.weight`."""
        module, _, part = local.partition(".")
        inner = next(
            (name for name in _MODULES[module] if self.names.has_part(f"{self.at}{name}.")), _MODULES[module][0]
        )
        at = f"{self.at}{inner}."
        shape = dict(mixer_parameters(self.config, self.mixer))[part].shape
        owner, _, kind = part.rpartition(".")
        if part == "A":
            return NegatedExponential(self.names.full(f"{at}A_log"), shape)
        if isinstance(self.mixer, DeltaConfig) and owner in _DELTA_FUSED:
            fused = self.names.first_of(at, ("in_proj_qkvz", "in_proj_ba"), kind)
            if fused is not None:
                return self._by_key_head(at, owner, kind, self.mixer)
        joined = f"{at}in_proj.{kind}"
        if isinstance(self.mixer, DeltaConfig) and owner in _DELTA_FUSED and self.names.has(joined):
            return self._of_all(joined, owner, self.mixer)
        apart = [f"{at}{name}.{kind}" for name in _DELTA_JOINED.get(owner, ())]
        if module == "linear_attn" and apart and self.names.has(apart[0]):
            return self._joined(apart, shape, reshaped=owner == "conv1d")
        if isinstance(self.mixer, MlstmConfig) and (source := self._of_mlstm(at, owner, kind, self.mixer)) is not None:
            return source
        if isinstance(self.mixer, RglruConfig) and not owner:
            return Source(self.names.full(f"{at}rg_lru.{part}"))
        names = (owner, *_PARTS.get(owner, ()), *(_DELTA_PARTS.get(owner, ()) if module == "linear_attn" else ()))
        name = self.names.first_of(at, names, kind) or self.names.full(f"{at}{part}")
        reshaped = owner in ("conv1d", "conv", "multihead_norm") or kind.startswith("time_mix_")
        return Reshaped(name, shape) if reshaped and kind != "bias" else Source(name)

    def _by_key_head(self, at: str, owner: str, kind: str, delta: DeltaConfig) -> Source:
        """The rows of a projection in a tensor that has, for each key head, all parts that belong to it."""
        qkvz, ba = (self.names.full(f"{at}{name}.{kind}") for name in ("in_proj_qkvz", "in_proj_ba"))
        match owner:
            case "in_proj_qkv":
                return qkvz_by_key_head(qkvz, delta, 0, 1, 2)
            case "in_proj_z":
                return qkvz_by_key_head(qkvz, delta, 3)
            case _:
                return ba_by_key_head(ba, delta, 0 if owner == "in_proj_b" else 1)

    def _of_all(self, name: str, owner: str, delta: DeltaConfig) -> Source:
        """The rows of a projection in a tensor that has all of them, one after the other."""
        keys, values = delta.key_heads * delta.key_dim, delta.value_heads * delta.value_dim
        sizes = dict(zip(_DELTA_FUSED, (2 * keys + values, values, delta.value_heads, delta.value_heads), strict=True))
        start = sum(list(sizes.values())[: list(sizes).index(owner)])
        return Source(self.names.full(name), None, ((start, start + sizes[owner]),), sum(sizes.values()))

    def _of_mlstm(self, at: str, owner: str, kind: str, cell: MlstmConfig) -> Source | None:
        """The rows of a projection of an mLSTM in a tensor that has several, if the files have such tensors."""
        keys, values = cell.heads * cell.key_dim, cell.heads * cell.value_dim
        for fused, sizes in (
            ("qkv_opreact", {"q": keys, "k": keys, "v": values, "ogate_preact": values}),
            ("ifgate_preact", {"igate_preact": cell.heads, "fgate_preact": cell.heads}),
        ):
            if owner in sizes and self.names.has(f"{at}{fused}.{kind}"):
                start = sum(list(sizes.values())[: list(sizes).index(owner)])
                rows = ((start, start + sizes[owner]),)
                return Source(self.names.full(f"{at}{fused}.{kind}"), None, rows, sum(sizes.values()))
        return None

    def _joined(self, names: list[str], shape: tuple[int, ...], *, reshaped: bool) -> ParameterSource:
        """Queries, keys and values, or their convolutions, which files keep apart."""
        if not reshaped:
            return Joined(tuple(Source(self.names.full(name)) for name in names))
        assert isinstance(self.mixer, DeltaConfig)
        keys, values = self.mixer.key_heads * self.mixer.key_dim, self.mixer.value_heads * self.mixer.value_dim
        rows = (keys, keys, values)
        return Joined(
            tuple(Reshaped(self.names.full(name), (count, shape[1])) for name, count in zip(names, rows, strict=True))
        )
