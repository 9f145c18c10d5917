"""Parameters of recurrent layers, from their configuration alone; see `llmcli.model.parameters`."""

from __future__ import annotations

from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import (
    DeltaConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    MlstmConfig,
    RglruConfig,
    Rwkv4Config,
    ShortConvConfig,
)
from llmcli.model.parameter_info import Named, ParameterInfo, linear, within


def mixer_parameters(config: ModelConfig, mixer: MixerConfig) -> Named:
    """Names within the module, and what is known of each."""
    match mixer:
        case DeltaConfig():
            return _delta_net(config, mixer)
        case Mamba2Config():
            return _mamba2(config, mixer)
        case MambaConfig():
            return _mamba(config, mixer)
        case RglruConfig():
            return _rglru(config, mixer)
        case MlstmConfig():
            return _mlstm(config, mixer)
        case Rwkv4Config():
            return _time_mixing(config, mixer)
        case ShortConvConfig():
            return _short_conv(config, mixer)


def _mamba2(config: ModelConfig, mamba: Mamba2Config) -> Named:
    hidden, inner = config.hidden_size, mamba.heads * mamba.head_dim
    mixed = inner + 2 * mamba.groups * mamba.state
    for name in ("A", "D", "dt_bias"):
        yield name, ParameterInfo((mamba.heads,), float32=True)
    yield from within("in_proj", linear(hidden, inner + mixed + mamba.heads, bias=mamba.bias))
    yield from within("conv1d", _conv(mixed, mamba.conv_width, bias=mamba.conv_bias))
    if mamba.norm is not None:
        yield "norm.weight", ParameterInfo((inner,))
    yield from within("out_proj", linear(inner, hidden, bias=mamba.bias))


def _mamba(config: ModelConfig, mamba: MambaConfig) -> Named:
    hidden, width, sizes = config.hidden_size, mamba.width, (mamba.step_rank, mamba.state, mamba.state)
    yield "A", ParameterInfo((width, mamba.state), float32=True)
    yield "D", ParameterInfo((width,), float32=True)
    yield from within("in_proj", linear(hidden, 2 * width, bias=mamba.bias))
    yield from within("conv1d", _conv(width, mamba.conv_width, bias=mamba.conv_bias))
    yield from within("x_proj", linear(width, sum(sizes)))
    yield from within("dt_proj", linear(mamba.step_rank, width, bias=True))
    if mamba.norms == "weights":
        for name, size in zip(("dt_norm", "b_norm", "c_norm"), sizes, strict=True):
            yield f"{name}.weight", ParameterInfo((size,))
    yield from within("out_proj", linear(width, hidden, bias=mamba.bias))


def _rglru(config: ModelConfig, rglru: RglruConfig) -> Named:
    hidden, width, blocks = config.hidden_size, rglru.width, rglru.blocks
    size = width // blocks
    for gate in ("input_gate", "recurrent_gate"):
        yield f"{gate}_weight", ParameterInfo((blocks, size, size))
        yield f"{gate}_bias", ParameterInfo((blocks, size))
    yield "recurrent_param", ParameterInfo((width,), float32=True)
    for name in ("linear_y", "linear_x"):
        yield from within(name, linear(hidden, width, bias=True))
    yield from within("conv1d", _conv(width, rglru.conv_width, bias=True))
    yield from within("linear_out", linear(width, hidden, bias=True))


def _mlstm(config: ModelConfig, cell: MlstmConfig) -> Named:
    hidden, keys, values = config.hidden_size, cell.heads * cell.key_dim, cell.heads * cell.value_dim
    for name, size in (("q", keys), ("k", keys), ("v", values), ("ogate_preact", values)):
        yield from within(name, linear(hidden, size))
    for name in ("igate_preact", "fgate_preact"):
        yield from within(name, linear(hidden, cell.heads, bias=True))
    yield "multihead_norm.weight", ParameterInfo((cell.heads, cell.value_dim))
    yield from within("out_proj", linear(values, hidden))


def _time_mixing(config: ModelConfig, rwkv: Rwkv4Config) -> Named:
    hidden, width = config.hidden_size, rwkv.width
    for name in ("time_decay", "time_first"):
        yield name, ParameterInfo((width,), float32=True)
    for name in ("key", "value", "receptance"):
        yield f"time_mix_{name}", ParameterInfo((hidden,))
    for name in ("key", "value", "receptance"):
        yield from within(name, linear(hidden, width))
    yield from within("output", linear(width, hidden))


def _conv(channels: int, width: int, *, bias: bool) -> Named:
    yield "weight", ParameterInfo((channels, width))
    if bias:
        yield "bias", ParameterInfo((channels,))


def _delta_net(config: ModelConfig, delta: DeltaConfig) -> Named:
    hidden, heads, rank = config.hidden_size, delta.value_heads, delta.gate_rank
    keys, values = delta.key_heads * delta.key_dim, heads * delta.value_dim
    decays = heads if delta.decay == "head" else heads * delta.key_dim
    yield "A", ParameterInfo((heads,), float32=True)
    yield "dt_bias", ParameterInfo((decays,), float32=True)
    yield from within("in_proj_qkv", linear(hidden, 2 * keys + values))
    yield from within("in_proj_z", _projection(hidden, values, rank))
    yield from within("in_proj_b", linear(hidden, heads))
    yield from within("in_proj_a", _projection(hidden, decays, rank))
    yield "conv1d.weight", ParameterInfo((2 * keys + values, delta.conv_width))
    yield "norm.weight", ParameterInfo((delta.value_dim,))
    yield from within("out_proj", linear(values, hidden))


def _projection(inputs: int, outputs: int, rank: int | None) -> Named:
    """One projection, or two in a row with `rank` values between them."""
    if rank is None:
        yield from linear(inputs, outputs)
    else:
        yield from within("linear_left", linear(inputs, rank))
        yield from within("linear_right", linear(rank, outputs))


def _short_conv(config: ModelConfig, mixer: ShortConvConfig) -> Named:
    hidden = config.hidden_size
    yield from within("in_proj", linear(hidden, 3 * hidden, bias=mixer.bias))
    yield "conv.weight", ParameterInfo((hidden, mixer.width))
    if mixer.bias:
        yield "conv.bias", ParameterInfo((hidden,))
    yield from within("out_proj", linear(hidden, hidden, bias=mixer.bias))
