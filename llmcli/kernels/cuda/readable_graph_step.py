"""The readable model's decode step in a CUDA graph, for models that the Triton kernels do not support.

Launching the operations of a small model one by one takes the CPU longer than the GPU needs to compute them; a graph is
launched as a whole. Position and id are read from device memory, and attention reads the whole allocated cache through
a mask, so one graph serves every position until the cache's memory moves.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from llmcli.kernels.base import (
    DEVICE_CHUNK,
    FastStep,
    NoKernelError,
    StepCapabilities,
    readable_logits,
    readable_name,
)
from llmcli.kernels.cuda.graph_capture import capture_graph
from llmcli.kernels.cuda.rope_tables import Rotations
from llmcli.kernels.cuda.support import first_line
from llmcli.model import KVCache, LayerConfig, RopeConfig, Transformer
from llmcli.model.cache.state import State
from llmcli.model.mixer_config import mixer_name
from llmcli.model.mixture_of_experts import ExpertWeights
from llmcli.model.quantized.matrix import PackedMatrix


class GraphStep(FastStep):
    """Runs single tokens through a captured pass of the readable model, and longer inputs through the model."""

    prefill_chunk = DEVICE_CHUNK
    capabilities = StepCapabilities(device_tokens=True)

    def __init__(self, model: Transformer, reason: str) -> None:
        """`reason` says why no faster step can run. On a CPU nothing is captured, for tests.

        Raises:
            NoKernelError: the model's step cannot be captured.
        """
        packed = (
            isinstance(module, ExpertWeights) and isinstance(module.down_proj, PackedMatrix)
            for module in model.modules()
        )
        # A graph reads and writes memory at fixed addresses, while states are new tensors in each pass.
        if mixers := [mixer for layer in model.config.layers for mixer in layer.mixers]:
            raise NoKernelError(mixer_name(mixers[0]))
        if any(layer.blocks is not None for layer in model.config.layers):
            raise NoKernelError("compressed blocks of tokens")
        if any(layer.block_index is not None for layer in model.config.layers):
            raise NoKernelError("an index of blocks")
        if model.config.int8_cache:
            raise NoKernelError("a KV cache in 8 bits")
        if any(packed):
            raise NoKernelError("packed experts are chosen on the CPU")
        self._model, self._reason = model, reason
        self._captures = model.device.type == "cuda"
        self._rotations = Rotations(model)
        # Id, position, first position of the rotations.
        self._inputs = torch.zeros(3, dtype=torch.int64, device=model.device)
        self._logits = torch.empty(0)
        self._entered: tuple[weakref.ref[KVCache], int] | None = None
        self._memories: list[tuple[int, int, int, torch.Size]] = []
        self._ran, self._refused = False, ""
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def name(self) -> str:
        """The path's name, shown to users."""
        if self._refused:
            return readable_name(self._model, f"{self._reason}, and no CUDA graph: {self._refused}")
        name = f"readable model in a CUDA graph, {str(self._model.dtype).removeprefix('torch.')}"
        return f"{name} ({self._reason})"

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        `ids` continue the text in `cache`, which is updated as by `Transformer.forward`: the two can alternate.

        Raises:
            PromptTooLongError: the text is longer than the model's learned positions.
        """
        if len(ids) > 1:
            return readable_logits(self._model, ids, cache, only_last=only_last)
        return self.forward_device_token(torch.tensor(ids), cache).clone()

    @torch.inference_mode()
    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits in float32 (1, V) after `token` (1,), which may be on the device; valid until the next pass.

        Raises:
            PromptTooLongError: as for `forward`.
        """
        self._model.check_positions(cache.length + 1)
        self._enter(cache)
        first = self._rotations.reach(cache, 1)
        place = torch.tensor([cache.length, first], pin_memory=self._captures)
        self._inputs[1:].copy_(place, non_blocking=True)
        self._inputs[:1].copy_(token)
        # A graph is captured on the current device, even if its tensors are on another.
        with torch.cuda.device(self._model.device) if self._captures else nullcontext():
            self._run(cache)
        cache.advance(1)
        return self._logits[0].float()

    def _enter(self, cache: KVCache) -> None:
        """Make room for a token; drop the graph if the cache's memory is not the captured one."""
        cache.begin(1)
        if self._entered is not None and self._entered[0]() is cache and self._entered[1] == cache.moves:
            return
        # A new text's cache often has the memory of the one before.
        memories = [(keys.data_ptr(), values.data_ptr(), first, keys.shape) for keys, values, first in cache.layers]
        if memories != self._memories:
            self._graph, self._ran, self._memories = None, False, memories
        for keys, values, first in cache.layers:
            # Masked positions have weight 0, but 0 times NaN is NaN, which uninitialized memory may contain.
            for memory in (keys, values):
                memory[:, :, cache.length - first :].zero_()
        self._entered = weakref.ref(cache), cache.moves

    def _run(self, cache: KVCache) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        # Not captured in the first call, in which libraries allocate their workspaces.
        if self._captures and self._ran and not self._refused and self._settled():
            try:
                self._graph = self._capture(cache)
                self._graph.replay()
                return
            except RuntimeError as error:
                self._graph, self._refused = None, first_line(error)
        self._logits = self._pass(cache)
        self._ran = True

    def _settled(self) -> bool:
        """Whether no unpacker is still compiling: until then a graph would capture torch's slower dequantization."""
        packed = (module for module in self._model.modules() if isinstance(module, PackedMatrix))
        return not any(one.unpacker is not None and one.unpacker.pending(one, one.dtype) for one in packed)

    def _capture(self, cache: KVCache) -> torch.cuda.CUDAGraph:
        def run() -> None:
            self._logits = self._pass(cache)

        return capture_graph(run, self._model.device)

    def _pass(self, cache: KVCache) -> Tensor:
        """Logits (1, 1, V) of the token in `inputs`."""
        token, position, first = self._inputs[:1, None], self._inputs[1:2], self._inputs[2:3]
        dtype = self._model.dtype
        place = position - first
        rotations = {
            rope: (_at(cos, place, rope, dtype), _at(sin, place, rope, dtype))
            for rope, (cos, sin) in self._rotations.tables.items()
        }
        kinds = dict(zip(self._model.config.layers, cache.layers, strict=True))

        def mask(layer: LayerConfig) -> Tensor:
            segment = kinds[layer]
            key = torch.arange(segment.first, segment.end, device=position.device)[None, :]
            seen = key <= position
            if layer.window is not None:
                seen = seen & (key > position - layer.window)
            if layer.chunk is not None:
                seen = seen & (key // layer.chunk == position // layer.chunk)
            return seen

        return self._model.forward_at(token, position, rotations, mask, _AllMemory(cache, position))


def _at(table: Tensor, place: Tensor, rope: RopeConfig, dtype: torch.dtype) -> Tensor:
    """A row of cosines or sines, (1, R / 2)."""
    return table.index_select(0, place).to(torch.float32 if rope.float32 else dtype)


class _AllMemory:
    """A cache that stores at a position in device memory, and returns all allocated positions."""

    def __init__(self, cache: KVCache, position: Tensor) -> None:
        self._cache, self._position = cache, position

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` (1, K, 1, D); returns all of the layer's, (1, K, S, D)."""
        segment = self._cache.layers[layer]
        place = self._position - segment.first
        segment.keys.index_copy_(2, place, keys)
        segment.values.index_copy_(2, place, values)
        return segment.keys, segment.values

    def append_inputs(self, layer: int, values: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Store inputs of compressed blocks; `GraphStep` refuses models with them."""
        return self._cache.append_inputs(layer, values, gates)

    def append_entries(self, layer: int, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Store compressed blocks."""
        return self._cache.append_entries(layer, rows, keys)

    def state(self, layer: int) -> State | None:
        """The layer's state, which no graph can read: `GraphStep` refuses such models."""
        return self._cache.state(layer)

    def store(self, layer: int, state: State) -> None:
        """Store the layer's state."""
        self._cache.store(layer, state)
