"""Describe what a layer has in place of attention to the C kernel."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu.weight_structs import WeightStructs
from llmcli.model.recurrent.causal_conv import CausalConv
from llmcli.model.recurrent.delta_net import DeltaNet, LowRank
from llmcli.model.recurrent.gated_norm import GatedRMSNorm
from llmcli.model.recurrent.mamba import Mamba
from llmcli.model.recurrent.mamba2 import Mamba2
from llmcli.model.recurrent.rglru import POWER, Rglru
from llmcli.model.recurrent.short_conv import ShortConv


def add_recurrence(described: c.Layer, weights: WeightStructs, mixer: nn.Module) -> None:
    """Add a gated delta net, Mamba, RG-LRU or a short convolution, in place of attention or beside it.

    Raises:
        NoKernelError: it is another network.
    """
    if isinstance(mixer, DeltaNet):
        _add_delta_net(described, weights, mixer)
    elif isinstance(mixer, Mamba2):
        _add_mamba2(described, weights, mixer)
    elif isinstance(mixer, Mamba):
        _add_mamba(described, weights, mixer)
    elif isinstance(mixer, Rglru):
        _add_rglru(described, weights, mixer)
    elif isinstance(mixer, ShortConv):
        _add_short_convolution(described, weights, mixer)
    else:
        raise NoKernelError(f"a layer is of the kind {type(mixer).__name__}")
    described.recurrence.out_proj = weights.large(mixer.linear_out if isinstance(mixer, Rglru) else mixer.out_proj)


def _add_delta_net(described: c.Layer, weights: WeightStructs, mixer: DeltaNet) -> None:
    delta = mixer.delta
    described.recurrence = c.RecurrentMixer(
        kind=c.DELTA,
        in_proj=weights.large(mixer.in_proj_qkv),
        heads=delta.value_heads,
        groups=delta.key_heads,
        key_dim=delta.key_dim,
        value_dim=delta.value_dim,
        tiled=delta.tiled,
        sigmoid_gate=delta.gate == "sigmoid",
        strength_scale=delta.beta_scale,
        channel_decay=delta.decay == "channel",
        safe_decay=delta.safe_decay or 0,
        strength=weights.matrix(mixer.in_proj_b),
        rate=weights.floats(mixer.A),
        step_bias=weights.floats(mixer.dt_bias),
        norm=_norm(weights, mixer.norm),
    )
    gate, decay = mixer.in_proj_z, mixer.in_proj_a
    if isinstance(gate, LowRank) and isinstance(decay, LowRank):
        described.recurrence.gate_left = weights.large(gate.linear_left)
        described.recurrence.decay_left = weights.matrix(decay.linear_left)
        gate, decay = gate.linear_right, decay.linear_right
    described.recurrence.gate, described.recurrence.decay = weights.large(gate), weights.matrix(decay)
    _add_convolution(described.recurrence, weights, mixer.conv1d)


def _add_mamba2(described: c.Layer, weights: WeightStructs, mixer: Mamba2) -> None:
    mamba = mixer.mamba
    described.recurrence = c.RecurrentMixer(
        kind=c.STATE_SPACE,
        in_proj=weights.large(mixer.in_proj),
        heads=mamba.heads,
        groups=mamba.groups,
        key_dim=mamba.state,
        value_dim=mamba.head_dim,
        norm_first=mamba.norm == "norm_first",
        min_step=mamba.min_step,
        max_step=math.inf if mamba.max_step is None else mamba.max_step,
        rate=weights.floats(mixer.A),
        step_bias=weights.floats(mixer.dt_bias),
        skip=weights.floats(mixer.D),
        norm=c.Norm(kind=c.NO_NORM) if mixer.norm is None else _norm(weights, mixer.norm),
    )
    _add_convolution(described.recurrence, weights, mixer.conv1d)


def _add_mamba(described: c.Layer, weights: WeightStructs, mixer: Mamba) -> None:
    width, state = mixer.A.shape
    described.recurrence = c.RecurrentMixer(
        kind=c.SELECTIVE_SCAN,
        in_proj=weights.large(mixer.in_proj),
        heads=1,
        groups=1,
        key_dim=state,
        value_dim=width,
        decay=weights.matrix(mixer.dt_proj),
        decay_left=weights.matrix(mixer.x_proj),
        rate=weights.floats(mixer.A),
        skip=weights.floats(mixer.D),
        step_norm=weights.norm(mixer.dt_norm),
        write_norm=weights.norm(mixer.b_norm),
        read_norm=weights.norm(mixer.c_norm),
    )
    _add_convolution(described.recurrence, weights, mixer.conv1d)


def _add_rglru(described: c.Layer, weights: WeightStructs, mixer: Rglru) -> None:
    described.recurrence = c.RecurrentMixer(
        kind=c.GATED_UNIT,
        in_proj=weights.large(mixer.linear_x),
        heads=len(mixer.input_gate_weight),
        groups=1,
        key_dim=1,
        value_dim=len(mixer.recurrent_param),
        gate=weights.large(mixer.linear_y),
        decay=_blocks(weights, mixer.recurrent_gate_weight, mixer.recurrent_gate_bias),
        strength=_blocks(weights, mixer.input_gate_weight, mixer.input_gate_bias),
        rate=weights.floats(-POWER * F.softplus(mixer.recurrent_param.float())),
    )
    _add_convolution(described.recurrence, weights, mixer.conv1d)


def _blocks(weights: WeightStructs, gates: Tensor, bias: Tensor) -> c.Matrix:
    """A matrix for each block of channels, from `gates` (blocks, inputs, outputs)."""
    return weights.matrix(gates.detach().transpose(1, 2).contiguous(), bias=bias)


def _add_short_convolution(described: c.Layer, weights: WeightStructs, mixer: ShortConv) -> None:
    described.recurrence = c.RecurrentMixer(kind=c.SHORT_CONVOLUTION, in_proj=weights.large(mixer.in_proj))
    _add_convolution(described.recurrence, weights, mixer.conv)


def _add_convolution(recurrence: c.RecurrentMixer, weights: WeightStructs, conv: CausalConv) -> None:
    recurrence.channels, recurrence.width = conv.weight.shape
    recurrence.conv = weights.floats(conv.weight.T)
    if conv.bias is not None:
        recurrence.conv_bias = weights.floats(conv.bias)


def _norm(weights: WeightStructs, norm: GatedRMSNorm) -> c.Norm:
    return c.Norm(kind=c.RMS_NORM, eps=norm.eps, weight=weights.floats(norm.weight))
