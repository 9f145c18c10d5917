"""Check from the headers alone whether a model fits into memory, and find settings with which it would.

The estimate counts what is in memory at the same time: the final weights, the KV cache of the requested context or the
states of recurrent layers with their marks, and the activations of one prefill chunk. If that is more than the device
has free, loading would fail later, or the system would kill the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing, Storage, packed_formats, planned_formats
from llmcli.device import memory
from llmcli.errors import OutOfMemoryError
from llmcli.kernels.base import DEVICE_CHUNK, READABLE_CHUNK
from llmcli.model import LayerConfig, ModelConfig, Transformer
from llmcli.model.cache.marks import memory_of_states
from llmcli.model.parameter_info import ParameterInfo
from llmcli.model.parameters import parameters_of
from llmcli.model.quantized.matrix import DEVICE_VALUES_AT_ONCE, UNPACKED_BYTES
from llmcli.sizes import size

# Context assumed when none was requested, in tokens: a short chat. The cache grows with the text.
_DEFAULT_CONTEXT = 1024
# Suggested contexts are multiples of this.
_CONTEXT_STEP = 256


@dataclass(frozen=True)
class Footprint:
    """Memory that a model takes while it generates, in bytes."""

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """Weights, cache and activations together."""
        return self.weights + self.cache + self.working


@dataclass(frozen=True)
class LoadRequest:
    """How a model will be loaded."""

    device: torch.device
    dtype: torch.dtype
    packing: Packing | None = None
    context: int | None = None
    """The most tokens of prompt and reply together; None: not requested."""
    may_pack: bool = True
    """Whether the weights could be packed if they are not."""


def footprint(
    model: Transformer,
    planned: Mapping[str, Storage],
    dtype: torch.dtype,
    context: int | None,
    device: torch.device,
) -> Footprint:
    """Memory of `model` (may be on `meta`) on `device`: parameters in `planned` packed, others in `dtype`."""
    weights = sum(parameter_bytes(model, planned, dtype).values())
    tokens = min(context or _DEFAULT_CONTEXT, model.config.context_length)
    working = _working(model.config, tokens, dtype, device)
    if device.type == "cuda" and (packed := packed_formats(planned)):
        largest = max(math.prod(model.get_parameter(name).shape[-2:]) for name in packed)
        working += UNPACKED_BYTES * min(DEVICE_VALUES_AT_ONCE, largest)
    states = memory_of_states(model.config, dtype.itemsize)
    return Footprint(weights, model.config.kv_bytes(tokens, dtype.itemsize) + states, working)


def parameter_bytes(model: Transformer, planned: Mapping[str, Storage], dtype: torch.dtype) -> dict[str, int]:
    """Bytes of each parameter: in the format of `planned`, or in the type of `kept_dtype`."""
    found = {}
    for name, parameter in parameters_of(model.config).items():
        if name in planned:
            count, rows, columns = (1, *parameter.shape)[-3:]
            found[name] = planned[name].nbytes(rows, columns, count)
        else:
            found[name] = parameter.values * kept_dtype(parameter, dtype).itemsize
    return found


def kept_dtype(parameter: ParameterInfo, dtype: torch.dtype) -> torch.dtype:
    """The type that a parameter has in a model of type `dtype`."""
    if parameter.below is not None:
        return torch.int64
    return torch.float32 if parameter.float32 else dtype


def check_memory(
    model: Transformer, checkpoint: Checkpoint | None, request: LoadRequest, *, name: str | None = None
) -> None:
    """Check that a model, still on `meta`, fits into the free memory of its device.

    The error names the checkpoint's path, or `name` without one.

    Raises:
        OutOfMemoryError: it does not; the message says what is needed, what is free, and what would fit.
    """
    free = memory(request.device)[1]
    if free is None:
        return
    needed = _needed(model, checkpoint, request)
    if needed.total <= free:
        return
    kept = {None: str(request.dtype).removeprefix("torch."), "stored": "the bits they are stored in"}
    context = "" if request.context is None else f" and {size(needed.cache)} for a context of {request.context} tokens"
    name = name if checkpoint is None else str(checkpoint.path)
    fitting = ", ".join(_fitting_settings(model, checkpoint, request, free))
    raise OutOfMemoryError(
        f"{name} does not fit: it takes {size(needed.total)}, with {size(needed.weights)} for the "
        f"weights in {kept.get(request.packing, request.packing)}{context}, "
        f"and {request.device} has {size(free)} free. "
        + (
            f"This would fit: {fitting}; see llm help models."
            if fitting
            else "Close other programs, or use a smaller model."
        )
    )


def check_copies(model: Transformer, checkpoint: Checkpoint, request: LoadRequest, copies: int) -> None:
    """Check that a model, on `meta`, fits several times into the free memory of its device, for as many processes.

    Raises:
        OutOfMemoryError: it does not; the message says how many times it fits.
    """
    free = memory(request.device)[1]
    needed = _needed(model, checkpoint, request).total
    if free is None or copies * needed <= free:
        return
    fitting = free // needed
    raise OutOfMemoryError(
        f"{checkpoint.path} does not fit {copies} times: each process takes {size(needed)}, all take "
        f"{size(copies * needed)}, and {request.device} has {size(free)} free. "
        + {0: "Not even one fits; see llm help models.", 1: "One process fits."}.get(fitting, f"{fitting} fit.")
    )


def _needed(model: Transformer, checkpoint: Checkpoint | None, request: LoadRequest) -> Footprint:
    planned = planned_formats(model, request.packing, checkpoint, request.device)
    return footprint(model, planned, request.dtype, request.context, request.device)


def _fitting_settings(
    model: Transformer, checkpoint: Checkpoint | None, request: LoadRequest, free: int
) -> Iterator[str]:
    """Yield the flags with which the model fits into `free` bytes, those closest to the request first."""
    packings: list[tuple[str, Packing | None]] = [("", request.packing)]
    if request.may_pack and request.packing in (None, "stored", "int8"):
        packings += [("--quantize int8", "int8")] if request.packing != "int8" else []
        packings += [("--quantize int4", "int4")]
    fitting: set[str] = set()
    for dtype in (request.dtype, torch.bfloat16) if request.dtype == torch.float32 else (request.dtype,):
        for flag, packing in packings:
            if flag in fitting:
                continue  # it fits without a change of dtype
            planned = planned_formats(model, packing, checkpoint, request.device)
            flags = [flag] * bool(flag) + ["--dtype bfloat16"] * (dtype != request.dtype)
            needed = footprint(model, planned, dtype, request.context, request.device)
            if needed.total <= free:
                fitting.add(flag)
                yield f"{' '.join(flags)} ({size(needed.total)})"
            elif request.context is not None:
                longest = longest_context(model, planned, dtype, request.context, request.device, free)
                if longest:
                    yield " ".join([*flags, f"--context {longest}"])


def longest_context(
    model: Transformer,
    planned: Mapping[str, Storage],
    dtype: torch.dtype,
    context: int,
    device: torch.device,
    free: int,
) -> int:
    """The longest context below the requested one that fits, in tokens; 0 if none does."""
    fits, too_long = 0, -(-min(context, model.config.context_length) // _CONTEXT_STEP)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if footprint(model, planned, dtype, middle * _CONTEXT_STEP, device).total <= free:
            fits = middle
        else:
            too_long = middle
    return fits * _CONTEXT_STEP


def _working(config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of activations during one prefill chunk: the widest part of a block, and one row of logits."""
    widest = max(max(_widths(config, layer)) for layer in config.layers)
    piece = min(tokens, DEVICE_CHUNK if device.type == "cuda" else READABLE_CHUNK)
    # The residual streams, the update to them and their norms; gate, up and their product.
    activations = piece * (3 * config.streams * config.hidden_size + 3 * widest) * dtype.itemsize
    # The attention mask as booleans, and as numbers that are added to the scores.
    mask = piece * tokens * (1 + dtype.itemsize)
    # Logits and their probabilities, in float32.
    return activations + mask + 2 * config.vocab_size * torch.float32.itemsize


def _widths(config: ModelConfig, layer: LayerConfig) -> tuple[int, int]:
    """Values that the feed-forward network and the attention of a layer, or what replaces it, compute for a token."""
    heads, experts = config.heads_of(layer), layer.experts
    attention = heads.count * heads.key_dim + heads.kv_count * (heads.key_dim + heads.value_dim)
    mixed = sum(mixer.projected(config.hidden_size) for mixer in layer.mixers) + (attention if layer.attends else 0)
    if experts is None:
        return config.width_of(layer), mixed
    return experts.intermediate_size * experts.chosen + experts.shared_size, mixed
