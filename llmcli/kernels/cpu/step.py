"""Forward passes in C on a CPU: computes what `Transformer.forward` does, on the same weights and cache."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.kernels.base import FastStep, NoKernelError, StepCapabilities, readable_logits
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu import signals
from llmcli.kernels.cpu.build import Library, load_library
from llmcli.kernels.cpu.model_struct import Description
from llmcli.kernels.cpu.states import NextStates
from llmcli.kernels.cpu.threads import default_threads, physical_cores
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer
from llmcli.model.attention.rope import Rope

# Number of tokens that a packed matrix is multiplied with at a time.
_TILE = 16
_MOST_TOKENS = 256
# The most texts that one call extends.
_MOST_TEXTS = 2 * _TILE
# Multiplications in one call, about 0.2 s on two cores: signals are handled between calls.
_CALL_WORK = 1 << 35
# Chunk of a prompt for dense weights, which torch multiplies faster where there are many tokens.
_DENSE_PREFILL = 512
# What the kernel does, within the sizes of its buffers.
_CAPABILITIES = StepCapabilities(
    most_rows=_MOST_TEXTS,
    most_each=_TILE,
    sampling_filters=frozenset({"temperature", "top_k", "top_p", "min_p"}),
    most_candidates=1024,
)
# Positions whose rotations are computed at a time.
_ROTATIONS_AHEAD = 256


class CpuStep(FastStep):
    """Runs a model's forward passes in the C kernel; each instance has a separate context with its own threads."""

    def __init__(self, model: Transformer, *, threads: int | None = None, library: Library | None = None) -> None:
        """`threads`: by default one for each physical core this process may use.

        Raises:
            NoKernelError: the kernel does not support the model, or cannot run on this machine.
        """
        self._model = model
        self._library = library or load_library()
        self.threads = threads or default_threads()
        self._description = Description(model, capacity=_MOST_TEXTS)
        self.dense = self._description.weights.dense_layers
        if not self.dense:
            affordable = _CALL_WORK // max(1, self._description.weights.multiplications) // _TILE * _TILE
            self._description.model.capacity = max(_MOST_TEXTS, min(_MOST_TOKENS, affordable))
        self._capacity: int = self._description.model.capacity
        handle = self._library.handle
        cores = physical_cores()
        core_of = {cpu: index for index, core in enumerate(cores) for cpu in core}
        numbers = max(core_of) + 1
        cpus = [core[0] for core in cores] + [core_of.get(cpu, -1) for cpu in range(numbers)]
        self._context = handle.llm_new(
            ctypes.byref(self._description.model),
            self.threads,
            (ctypes.c_int32 * len(cpus))(*cpus),
            len(cores),
            numbers,
        )
        if not self._context:
            raise NoKernelError("no memory or no threads for the kernel")
        weakref.finalize(self, _free, handle, self._context, os.getpid())
        self._segments = (c.Segment * (model.config.num_layers * _MOST_TEXTS))()
        self._entered: list[tuple[weakref.ref[KVCache], int] | None] = [None] * _MOST_TEXTS
        ropes = [rope for rope in model.ropes if isinstance(rope, Rope)]
        self._rotations = [_Rotations(rope) for rope in ropes]
        self._rotation_table = (c.Rotation * max(1, len(ropes)))()
        self._states = NextStates(model.config)
        self._last: tuple[Tensor, int] | None = None

    @property
    def capabilities(self) -> StepCapabilities:
        """See `FastStep`."""
        # Tokens are multiplied by tiles: only the last tile of a pass can be another one if the pass begins elsewhere.
        tile = 0 if self.dense else _TILE
        # Each token of a text needs the states after the one before it, also in a batch of them.
        each = 1 if self._model.config.has_state else _TILE
        return replace(_CAPABILITIES, prefill_tile=tile, most_each=each)

    @property
    def prefill_chunk(self) -> int:
        """The best number of tokens per call for a long prompt."""
        return _DENSE_PREFILL if self.dense else self._capacity

    @property
    def name(self) -> str:
        """The path's name, shown to users."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"cpu kernel ({self._library.isa}, {threads}), {self._description.weights.formats}"

    @property
    def greatest(self) -> tuple[int, float] | None:
        """See `FastStep`."""
        if self._last is None:
            return None
        logits, place = self._last
        return place, c.float_at(logits.data_ptr(), place)

    def covers(self, tokens: int) -> bool:
        """Whether the kernel computes a pass of `tokens` tokens; the readable model computes the others."""
        return not self.dense or tokens <= _TILE

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        `ids` continue the text in `cache`, which is updated as by `Transformer.forward`: the two can alternate.

        Raises:
            PromptTooLongError: the text is longer than the model's learned positions.
        """
        self._model.check_positions(cache.length + len(ids))
        if not self.covers(len(ids)):
            self._last = None
            return readable_logits(self._model, ids, cache, only_last=only_last)
        parts = [
            self._call(ids[start : start + self._capacity], cache, only_last=only_last)
            for start in range(0, len(ids), self._capacity)
        ]
        return parts[-1] if only_last or len(parts) == 1 else torch.cat(parts)

    @torch.inference_mode()
    def forward_rows(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Batched decode step: logits in float32 (R, V) after `ids[r]` continues the text in `caches[r]`.

        Every matrix is read once for all texts. Each row equals, to the last bit, the result of `forward` for its text
        alone.

        Raises:
            PromptTooLongError: a text is longer than the model's learned positions.
        """
        starts = [cache.length for cache in caches]
        # In a variable, so that the memory stays allocated while the kernel reads it.
        rotations = self._enter_rows(caches, [1] * len(caches), 1)
        with self._states.written(caches, self._segments):
            logits = self._compute(ids, 0, only_last=False, positions=starts)
        del rotations
        for cache in caches:
            cache.advance(1)
        return logits

    @torch.inference_mode()
    def forward_rows_multi_step(
        self, ids: Sequence[int], caches: Sequence[KVCache], requests: Sequence[SamplingRequest | None]
    ) -> list[list[int] | Tensor]:
        """See `FastStep`.

        Raises:
            PromptTooLongError: a text would become longer than the model's learned positions.
        """
        limits = [1 if request is None else len(request.uniforms) for request in requests]
        count, starts = max(limits), [cache.length for cache in caches]
        rotations = self._enter_rows(caches, limits, count)
        choices = (c.Choice * len(ids))(*[c.Choice() if one is None else _choice(one) for one in requests])
        # A text without a request gets logits, so these are not those of an earlier call.
        is_read = None in requests
        logits = self._new_logits(len(ids)) if is_read else self._rows_logits[: len(ids)]
        step = self._step(ids, 0, logits, only_last=False, positions=starts)
        chosen, made = (ctypes.c_int32 * (count * len(ids)))(), (ctypes.c_int32 * len(ids))()
        self._last = None
        with self._states.written(caches, self._segments), signals.alarm() as choices[0].alarm:
            arguments = step, choices, (ctypes.c_int32 * len(ids))(*limits), count, chosen, made
            _check(self._library.handle.llm_generate_rows(self._context, *arguments))
        del rotations
        for cache, tokens in zip(caches, made, strict=True):
            cache.advance(tokens)
        return [
            logits[row] if request is None else chosen[row * count : row * count + made[row]]
            for row, request in enumerate(requests)
        ]

    @torch.inference_mode()
    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Logits in float32 (T, V) of the token that follows each of `ids`, which continue the text in `cache`.

        Logits and cache equal, to the last bit, those of calling `forward` with one token at a time, but every matrix
        is read once. (`forward` sums attention to several tokens in another order.)

        Raises:
            PromptTooLongError: the text is longer than the model's learned positions.
        """
        start, new = cache.length, len(ids)
        self._model.check_positions(start + new)
        # Computed like a batch of texts that share one cache: each token's keys are written before any token attends,
        # and no token attends beyond its own position.
        self._enter(cache, new)
        for row in range(1, min(new, _TILE)):
            self._enter_again(row)
        self._rotate(start, new, cache.rope_length(new))
        logits = self._compute(ids, 0, only_last=False, positions=range(start, start + new))
        cache.advance(new)
        return logits

    @torch.inference_mode()
    def forward_multi_step(self, token: int, cache: KVCache, request: SamplingRequest) -> list[int]:
        """See `FastStep`: no Python code runs between two passes, which would evict weights from the CPU's caches.

        Raises:
            PromptTooLongError: the text would become longer than the model's learned positions.
        """
        start, count = cache.length, len(request.uniforms)
        self._model.check_positions(start + count)
        self._enter(cache, count)
        self._rotate(start, count, cache.rope_length(count))
        choice = _choice(request)
        step = self._step([token], start, self._multi_step_logits, only_last=True)
        self._last = None
        chosen = (ctypes.c_int32 * count)()
        with self._states.written([cache], self._segments), signals.alarm() as choice.alarm:
            made: int = self._library.handle.llm_generate(self._context, step, choice, count, chosen)
            _check(-min(made, 0))
        cache.advance(made)
        return chosen[:made]

    def _enter_rows(self, caches: Sequence[KVCache], limits: Sequence[int], count: int) -> list[tuple[Tensor, Tensor]]:
        """Set the addresses of several texts' caches, each with room for as many new tokens as its limit.

        Sets the rotations of `count` positions of each text too; they are valid as long as the result is kept.
        """
        self._model.check_positions(max(cache.length + limit for cache, limit in zip(caches, limits, strict=True)))
        for row, (cache, limit) in enumerate(zip(caches, limits, strict=True)):
            self._enter(cache, limit, row)
        positions = [cache.length + place for cache in caches for place in range(count)]
        lengths = [cache.rope_length(limit) for cache, limit in zip(caches, limits, strict=True) for _ in range(count)]
        rotations = [rotation.of(positions, lengths) for rotation in self._rotations]
        for index, (cos, sin) in enumerate(rotations):
            self._rotation_table[index] = c.Rotation(cos.data_ptr(), sin.data_ptr(), cos.shape[1])
        return rotations

    def _call(self, ids: Sequence[int], cache: KVCache, *, only_last: bool) -> Tensor:
        start, new = cache.length, len(ids)
        self._enter(cache, new)
        self._rotate(start, new, cache.rope_length(new))
        with self._states.written([cache], self._segments):
            logits = self._compute(ids, start, only_last=only_last)
        cache.advance(new)
        return logits

    def _rotate(self, start: int, new: int, length: int) -> None:
        """Set the rotations of `new` tokens from position `start` on in a text of `length` tokens."""
        for index, rotation in enumerate(self._rotations):
            self._rotation_table[index] = c.Rotation(*rotation.at(start, new, length))

    def _enter(self, cache: KVCache, new: int, row: int = 0) -> None:
        """Set the addresses of a text's cache, after making room for `new` tokens."""
        cache.begin(new)
        known = self._entered[row]
        # Memory changes rarely, and getting every tensor's address costs as much as computing a layer.
        if known is not None and known[0]() is cache and known[1] == cache.moves:
            return
        self._entered[row] = None
        layers = zip(cache.layers, self._description.cache_dtypes, strict=True)
        for index, ((keys, values, first), dtype) in enumerate(layers, row * len(cache.layers)):
            if keys.shape[0] != 1 or keys.dtype != dtype:
                raise ValueError("the cache is not of this model, or holds several texts")
            self._segments[index] = c.Segment(keys.data_ptr(), values.data_ptr(), first, keys.shape[2])
        self._entered[row] = weakref.ref(cache), cache.moves

    def _enter_again(self, row: int) -> None:
        """Use the first row's cache for another row too."""
        if self._entered[row] != self._entered[0]:
            size = ctypes.sizeof(c.Segment) * self._model.config.num_layers
            ctypes.memmove(ctypes.byref(self._segments, row * size), self._segments, size)
            self._entered[row] = self._entered[0]

    def _compute(
        self, ids: Sequence[int], start: int, *, only_last: bool, positions: Sequence[int] | None = None
    ) -> Tensor:
        """One call: `ids` are tokens of one text from `start` on, or tokens of different rows at `positions`."""
        logits = self._new_logits(1 if only_last else len(ids))
        step = self._step(ids, start, logits, only_last=only_last, positions=positions)
        _check(self._library.handle.llm_step(self._context, step))
        self._last = (logits, step.greatest) if only_last else None
        return logits

    def _new_logits(self, rows: int) -> Tensor:
        return torch.empty((rows, self._model.config.vocab_size))

    @functools.cached_property
    def _rows_logits(self) -> Tensor:
        """Buffer for the logits (R, V) of `forward_rows_multi_step`, for the most texts."""
        return self._new_logits(_MOST_TEXTS)

    @functools.cached_property
    def _multi_step_logits(self) -> Tensor:
        """Buffer for the logits (1, V) of `forward_multi_step`, reused because the system zeroes new memory."""
        return self._new_logits(1)

    def _step(
        self, ids: Sequence[int], start: int, logits: Tensor, *, only_last: bool, positions: Sequence[int] | None = None
    ) -> c.Pass:
        """The arguments of a call, which writes `logits`."""
        places = None if positions is None else (ctypes.c_int64 * len(positions))(*positions)
        return c.Pass(
            ids=ctypes.cast((ctypes.c_int32 * len(ids))(*ids), ctypes.c_void_p),
            segments=self._segments,
            rotations=self._rotation_table,
            logits=logits.data_ptr(),
            start=start,
            positions=None if places is None else ctypes.cast(places, ctypes.c_void_p),
            tokens=len(ids),
            only_last=only_last,
        )


class _Rotations:
    """Cosines and sines of one `Rope`, computed for many positions at a time."""

    def __init__(self, rope: Rope) -> None:
        self._rope = rope
        self._first = self._end = self._half = self._cos_at = self._sin_at = 0
        self._decisive = -1
        self._kept: tuple[Tensor, ...] = ()

    def at(self, start: int, count: int, length: int) -> tuple[int, int, int]:
        """Addresses of cosines and sines from position `start` on in a text of `length` tokens, and values of each."""
        decisive = self._rope.config.decisive_length(length)
        if decisive != self._decisive or start < self._first or start + count > self._end:
            # An interruption here must not leave addresses of freed memory.
            self._end = -1
            positions = torch.arange(start, start + max(count, _ROTATIONS_AHEAD))
            # Waking torch's threads, while the kernel's occupy the cores, would take far longer than computing.
            with one_thread():
                cos, sin = (part.contiguous() for part in self._rope(positions, torch.float32, length))
            self._kept = cos, sin
            self._cos_at, self._sin_at, self._half = cos.data_ptr(), sin.data_ptr(), cos.shape[1]
            self._first, self._end, self._decisive = start, start + len(positions), decisive
        skipped = (start - self._first) * self._half * 4
        return self._cos_at + skipped, self._sin_at + skipped, self._half

    def of(self, positions: Sequence[int], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (R, half) of one position in each of R texts; `lengths` are theirs, in tokens."""
        return self._rope.of_texts(torch.tensor(positions), torch.float32, lengths)


def _choice(request: SamplingRequest) -> c.Choice:
    """The kernel's form of a request. It keeps the arrays that it refers to, also as an element of an array."""
    filters, numbers, ends = request.filters, request.uniforms, request.ends
    return c.Choice(
        temperature=filters.temperature,
        top_p=filters.top_p,
        min_p=filters.min_p,
        uniforms=ctypes.cast((ctypes.c_double * len(numbers))(*numbers), ctypes.c_void_p),
        ends=ctypes.cast((ctypes.c_int32 * len(ends))(*ends), ctypes.c_void_p),
        top_k=filters.top_k,
        vocabulary=request.vocabulary,
        end_count=len(ends),
    )


def _check(problem: int) -> None:
    if problem:
        raise ValueError(f"the C kernel refuses the arguments (code {problem})")


def _free(library: ctypes.CDLL, context: int, process: int) -> None:
    # A forked child has the memory, but not the threads that freeing would wait for.
    if os.getpid() == process:
        library.llm_free(context)
