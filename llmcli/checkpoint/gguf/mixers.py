"""Map parameters of recurrent layers to the tensors of GGUF files."""

from __future__ import annotations

from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.checkpoint.tensors.parameter_sources import Joined, ParameterSource, Source
from llmcli.checkpoint.tensors.recurrent_sources import Reshaped, ba_by_key_head, qkvz_by_key_head
from llmcli.model import ModelConfig
from llmcli.model.mixer_config import DeltaConfig, MixerConfig
from llmcli.model.recurrent.parameters import mixer_parameters

_NAMES = {
    # Mamba and Mamba-2.
    "mamba.in_proj": "ssm_in",
    "mamba.conv1d": "ssm_conv1d",
    "mamba.x_proj": "ssm_x",
    "mamba.dt_proj": "ssm_dt",
    "mamba.dt_norm": "ssm_dt_norm",
    "mamba.b_norm": "ssm_b_norm",
    "mamba.c_norm": "ssm_c_norm",
    "mamba.norm": "ssm_norm",
    "mamba.out_proj": "ssm_out",
    # The gated delta net, and Kimi's delta attention, which has two projections for gates and decays each.
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_z.linear_left": "ssm_g_a",
    "linear_attn.in_proj_z.linear_right": "ssm_g_b",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_a.linear_left": "ssm_f_a",
    "linear_attn.in_proj_a.linear_right": "ssm_f_b",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    # The short convolution.
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
}
# Parameters whose names do not end in weight or bias. The converter writes rates, not their logarithms.
_WHOLE_NAMES = {"A": "ssm_a", "D": "ssm_d", "dt_bias": "ssm_dt.bias"}


def gguf_mixer_source(
    header: GGUFHeader, at: str, local: str, config: ModelConfig, mixer: MixerConfig
) -> ParameterSource:
    """How to read the parameter `local`, such as `mamba.in_proj.weight`, of the block with the prefix `at`."""
    part = local.partition(".")[2]
    shape = dict(mixer_parameters(config, mixer))[part].shape
    if part in _WHOLE_NAMES:
        return Reshaped(at + _WHOLE_NAMES[part], shape)
    module, _, kind = local.rpartition(".")
    if isinstance(mixer, DeltaConfig) and mixer.decay == "channel" and module == "linear_attn.conv1d":
        third = shape[0] // 3, shape[1]
        return Joined(tuple(Reshaped(f"{at}ssm_conv1d_{which}.{kind}", third) for which in "qkv"))
    fused = f"{at}ssm_ba.{kind}"
    if isinstance(mixer, DeltaConfig) and module.endswith(("in_proj_a", "in_proj_b")) and fused in header.tensors:
        return ba_by_key_head(fused, mixer, 0 if module.endswith("_b") else 1)
    if isinstance(mixer, DeltaConfig) and f"{at}ssm_in.{kind}" in header.tensors:
        # Older files have all parts of a key head together.
        if module == "linear_attn.in_proj_qkv":
            return qkvz_by_key_head(f"{at}ssm_in.{kind}", mixer, 0, 1, 2)
        if module == "linear_attn.in_proj_z":
            return qkvz_by_key_head(f"{at}ssm_in.{kind}", mixer, 3)
    if module == "linear_attn.in_proj_qkv":
        parts = tuple(f"{at}attn_{which}.{kind}" for which in "qkv")
        if any(part in header.tensors for part in parts):
            return Joined(tuple(map(Source, parts)))
    if module == "linear_attn.out_proj":
        # A missing tensor is reported by the name that files of the kind have.
        names = [f"{at}{name}.{kind}" for name in ("ssm_out", "attn_output")]
        if isinstance(mixer, DeltaConfig) and mixer.decay == "channel":
            names.reverse()
        return Source(next((name for name in names if name in header.tensors), names[0]))
    name = f"{at}{_NAMES[module]}.{kind}"
    # Norms have a row for each group, and convolutions may have further dimensions of one.
    return Reshaped(name, shape) if module.endswith(("norm", "conv1d", "conv")) else Source(name)
