"""Decode steps on a GPU: Triton kernels in one CUDA graph, on the weights and the cache of a `Transformer`.

The graph reads ids, position and the cache's addresses from device memory. So one capture serves every length of the
text, and a cache that grows or moves only changes a table.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from llmcli.kernels.base import DEVICE_CHUNK, FastStep, NoKernelError, StepCapabilities, readable_logits
from llmcli.kernels.cuda.graph_capture import capture_graph
from llmcli.kernels.cuda.launch_plan import STATE, LaunchPlan
from llmcli.kernels.cuda.rope_tables import Rotations
from llmcli.kernels.cuda.support import first_line, unsupported
from llmcli.model import KVCache, Transformer

# Numbers of tokens that have a plan; a call uses the smallest plan that is large enough.
_SIZES = (1, 4, 8, 16)


Fallback: TypeAlias = Callable[[Transformer, str], FastStep]
"""Makes a slower step of a model; the reason why it is needed becomes part of its name."""


class CudaStep(FastStep):
    """Runs decode steps, and up to 16 draft tokens at a time, through Triton kernels; prompts through the model.

    The readable model reads a prompt in chunks, with cuBLAS and PyTorch's fused attention: prefill is limited by
    arithmetic, for which these are close to optimal.
    """

    prefill_chunk = DEVICE_CHUNK
    capabilities = StepCapabilities(device_tokens=True)

    def __init__(self, model: Transformer, fallback: Fallback) -> None:
        """On a CPU the kernels run in Triton's interpreter, for tests.

        If the kernels fail at their first launch, `fallback` makes the step that replaces them, or if it makes none,
        the readable model does.

        Raises:
            NoKernelError: the kernels do not support the model's configuration or the format of its weights.
        """
        if reason := unsupported(model.config):
            raise NoKernelError(reason)
        self._model, device = model, model.device
        self._fallback = fallback
        self._captures = device.type == "cuda"
        self._pdl = self._captures and torch.cuda.get_device_capability(device) >= (9, 0)
        self._programs = _programs(device)
        self._table = torch.zeros(model.config.num_layers, 4, dtype=torch.int64, device=device)
        self._entered: tuple[weakref.ref[KVCache], int] | None = None
        self._rotations = Rotations(model)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._plans: dict[int, LaunchPlan] = {}
        self._replacement: FastStep | None = None
        # The most tokens in one call of the kernels.
        self._most = _SIZES[-1]
        self._plan(1)

    @property
    def name(self) -> str:
        """The path's name, shown to users."""
        if self._replacement is not None:
            return self._replacement.name
        how = "CUDA graph" if self._captures else "interpreted"
        return f"triton kernels ({how}), {self._plan(1).formats}"

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        `ids` continue the text in `cache`, which is updated as by `Transformer.forward`: the two can alternate.

        Raises:
            PromptTooLongError: the text is longer than the model's learned positions.
            ValueError: an id is not in the vocabulary.
        """
        self._model.check_positions(cache.length + len(ids))
        if any(not 0 <= token < self._model.config.vocab_size for token in ids):
            raise ValueError("a token id is not in the vocabulary")
        if self._replacement is not None:
            return self._replacement.forward(ids, cache, only_last=only_last)
        # The readable model also reads a prompt of one token, so that the first token never waits for a compiler.
        if not cache.length or len(ids) > self._most or (only_last and len(ids) > 1):
            return readable_logits(self._model, ids, cache, only_last=only_last)
        plan = self._plan(next(size for size in _SIZES if size >= len(ids)))
        if not self._run(plan, cache, torch.tensor(list(ids))):
            return self.forward(ids, cache, only_last=only_last)
        # A copy: the next step writes to the same memory.
        return plan.logits[len(ids) - 1 if only_last else 0 : len(ids)].clone()

    @torch.inference_mode()
    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits in float32 (1, V) after `token` (1,), which may be on the device; valid until the next pass.

        Raises:
            PromptTooLongError: as for `forward`.
        """
        self._model.check_positions(cache.length + 1)
        if self._replacement is not None:
            return self._replacement.forward_device_token(token, cache)
        if not self._run(self._plan(1), cache, token):
            return self.forward_device_token(token, cache)
        return self._plan(1).logits[:1]

    def _run(self, plan: LaunchPlan, cache: KVCache, ids: Tensor) -> bool:
        """Compute a plan's logits after `ids`, on the host or the device; False: it failed, and the caller must retry.

        A failure has changed the plans or set the replacement, so that the retry takes another path.
        """
        self._enter(cache, len(ids))
        first = self._rotations.reach(cache, plan.tokens)
        # PyTorch reuses pinned memory only after the copy is complete.
        state = torch.tensor([cache.length, len(ids), first], pin_memory=self._captures)
        plan.inputs[: len(state)].copy_(state, non_blocking=True)
        plan.inputs[STATE : STATE + len(ids)].copy_(ids, non_blocking=True)
        # Triton launches on the current device, even if the arguments are on another.
        with torch.cuda.device(self._model.device) if self._captures else nullcontext():
            if plan.tokens in self._graphs:
                self._graphs[plan.tokens].replay()
            elif not self._begin(plan):
                return False
        cache.advance(len(ids))
        return True

    def _plan(self, tokens: int) -> LaunchPlan:
        if tokens not in self._plans:
            self._plans[tokens] = LaunchPlan(
                self._model, tokens, self._table, self._rotations.tables, programs=self._programs, pdl=self._pdl
            )
        return self._plans[tokens]

    def _begin(self, plan: LaunchPlan) -> bool:
        """Launch a plan for the first time and capture its graph; False: that failed, and the caller must retry."""
        # Without a graph at first, to compile the kernels. The first token has been computed by then, so it does not
        # wait for the compiler.
        try:
            plan.launch()
            if self._captures:
                self._graphs[plan.tokens] = capture_graph(plan.launch, self._model.device)
        except Exception as error:
            # Compilers, linkers and drivers raise errors of any type; another path can run without them.
            if plan.tokens > 1:
                self._most = 1
                return False
            if self._pdl:
                # Some drivers support programmatic dependent launch, but not its capture.
                self._pdl = False
                self._plans.clear()
                self._graphs.clear()
                return False
            self._replacement = self._fallback(self._model, f"Triton: {first_line(error)}")
            return False
        return True

    def _enter(self, cache: KVCache, new: int) -> None:
        """Set the addresses of `cache` for the kernels, after making room for `new` tokens."""
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


def _programs(device: torch.device) -> int:
    """The number of programs that keeps the device busy: two for each multiprocessor."""
    if device.type != "cuda":
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count
