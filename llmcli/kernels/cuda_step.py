"""The model's step on a GPU: Triton kernels in one CUDA graph, on the weights and the cache of a `Transformer`.

The graph reads ids, position and the cache's addresses from device memory: captured once, it serves every length of the
text, and a cache that grows or moves only changes a table.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.kernels.cpu_build import NoKernelError
from llmcli.kernels.cuda_plan import Plan
from llmcli.kernels.cuda_support import unsupported
from llmcli.model import KVCache, Transformer
from llmcli.model.rope import Rope

# A plan for each number of tokens up to which it is used.
_SIZES = (1, 4, 8, 16)
_PREFILL_CHUNK = 2048
# Positions for which rotations are computed ahead.
_ROTATIONS_AHEAD = 1024


class CudaStep:
    """Runs a model's single tokens, and up to 16 to be verified, through Triton kernels; prompts through the model.

    A prompt is read by the readable model in chunks, with cuBLAS and PyTorch's fused attention: many tokens at once are
    limited by arithmetic, for which those are as good as can be.
    """

    prefill_chunk = _PREFILL_CHUNK

    def __init__(self, model: Transformer) -> None:
        """On a CPU the kernels run in Triton's interpreter, for tests.

        Raises:
            NoKernelError: the kernels do not cover the model, or what it is kept in.
        """
        if reason := unsupported(model.config):
            raise NoKernelError(reason)
        self._model, device = model, model.device
        self._captures = device.type == "cuda"
        self._pdl = self._captures and torch.cuda.get_device_capability(device) >= (9, 0)
        self._programs = _programs(device)
        self._table = torch.zeros(model.config.num_layers, 4, dtype=torch.int64, device=device)
        self._entered: tuple[weakref.ref[KVCache], int] | None = None
        self._rotations = [_Rotations(rope, model) for rope in model.ropes if isinstance(rope, Rope)]
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._plans: dict[int, Plan] = {}
        self._plan(1)

    @property
    def name(self) -> str:
        """What runs, for people."""
        how = "CUDA graph" if self._captures else "interpreted"
        return f"triton kernels ({how}), {self._plan(1).formats}"

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        `ids` continue what `cache` holds; it is left as `Transformer.forward` leaves it, and either can go on.

        Raises:
            PromptTooLongError: a model with learned positions has none for so many tokens.
        """
        self._model.check_positions(cache.length + len(ids))
        if len(ids) > 1 and (only_last or len(ids) > _SIZES[-1]):
            tokens = torch.tensor([list(ids)], device=self._model.device)
            logits: Tensor = self._model(tokens, cache, only_last=only_last)
            return logits[0].float()
        plan = self._plan(next(size for size in _SIZES if size >= len(ids)))
        self._enter(cache, len(ids))
        first = self._rotate(cache, plan.tokens)
        state = [cache.length, len(ids), first, 0, *ids]
        plan.inputs[: len(state)].copy_(torch.tensor(state))
        self._run(plan)
        cache.advance(len(ids))
        # A copy: the next step writes to the same memory.
        return plan.logits[len(ids) - 1 if only_last else 0 : len(ids)].clone()

    def _plan(self, tokens: int) -> Plan:
        if tokens not in self._plans:
            tables = {rotations.config: (rotations.cos, rotations.sin) for rotations in self._rotations}
            self._plans[tokens] = Plan(self._model, tokens, self._table, tables, programs=self._programs, pdl=self._pdl)
        return self._plans[tokens]

    def _run(self, plan: Plan) -> None:
        if plan.tokens in self._graphs:
            self._graphs[plan.tokens].replay()
            return
        # The first time each launch by itself, which compiles what is not compiled yet. The prompt has been read by
        # then, so that no first token waits for it.
        plan.launch()
        if self._captures:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                plan.launch()
            self._graphs[plan.tokens] = graph

    def _enter(self, cache: KVCache, new: int) -> None:
        """Tell the kernels where the memory of `cache` is, with room for `new` tokens."""
        cache.begin(new)
        if self._entered is not None and self._entered[0]() is cache and self._entered[1] == cache.moves:
            return
        self._entered = None
        rows = []
        for keys, values, first in cache.layers:
            if keys.shape[0] != 1 or keys.dtype != self._model.dtype or keys.device != self._model.device:
                raise ValueError("the cache is not of this model, or holds several texts")
            rows.append([keys.data_ptr(), values.data_ptr(), first, keys.shape[2]])
        self._table.copy_(torch.tensor(rows))
        self._entered = weakref.ref(cache), cache.moves

    def _rotate(self, cache: KVCache, new: int) -> int:
        """Have rotations for `new` tokens; the first position they are computed for."""
        length = max(cache.length + new, cache.expected_length)
        firsts = [rotations.reach(cache.length, new, length) for rotations in self._rotations]
        return firsts[0] if firsts else 0


class _Rotations:
    """Cosines and sines of one `Rope` (positions, R / 2), for many positions from a first one on, in fixed memory."""

    def __init__(self, rope: Rope, model: Transformer) -> None:
        self.config, self._rope, self._dtype = rope.config, rope, model.dtype
        shape = _ROTATIONS_AHEAD, rope.config.rotary_dim // 2
        self.cos, self.sin = (torch.zeros(shape, device=model.device) for _ in range(2))
        self._first, self._decisive = 0, -1

    def reach(self, start: int, count: int, length: int) -> int:
        """Compute what is lacking for the positions from `start` on in a text of `length` tokens."""
        decisive = self._rope.config.decisive_length(length)
        first = start // (_ROTATIONS_AHEAD // 2) * (_ROTATIONS_AHEAD // 2)
        if (first, decisive) != (self._first, self._decisive):
            positions = torch.arange(first, first + _ROTATIONS_AHEAD, device=self.cos.device)
            for into, values in zip((self.cos, self.sin), self._rope(positions, self._dtype, length), strict=True):
                into.copy_(values)
            self._first, self._decisive = first, decisive
        assert start + count <= first + _ROTATIONS_AHEAD
        return first


def _programs(device: torch.device) -> int:
    """How many programs keep the device busy: some for each of its processors."""
    if device.type != "cuda":
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count
