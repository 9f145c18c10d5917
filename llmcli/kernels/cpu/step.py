"""The model's step on a CPU by one call of C: what `Transformer.forward` computes, on the same weights and cache."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.kernels.base import NoKernelError, readable_logits
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu import signals
from llmcli.kernels.cpu.build import Library, load_library
from llmcli.kernels.cpu.model_struct import Description
from llmcli.kernels.cpu.threads import default_threads, physical_cores
from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest
from llmcli.model import KVCache, Transformer
from llmcli.model.attention.rope import Rope

# Tokens for which a packed matrix is decoded once.
_TILE = 16
_MOST_TOKENS = 256
# Multiplications in one call, about 0.2 s on two cores: signals are answered between calls.
_CALL_WORK = 1 << 35
# Dense weights are multiplied faster by torch where there are many tokens.
_DENSE_PREFILL = 512
# Among more the kernel does not choose.
_MOST_CANDIDATES = 1024
# The filters that the kernel knows.
_FILTERS = frozenset({"temperature", "top_k", "top_p", "min_p"})
# Positions for which rotations are computed ahead.
_ROTATIONS_AHEAD = 256


class CpuStep:
    """Runs a model's tokens through the C kernel; a context of its own, with its own threads."""

    most_rows = _TILE
    """How many texts one call of `forward_rows` can take."""
    most_each = _TILE
    """How many tokens one call of `forward_each` can take."""

    def __init__(self, model: Transformer, *, threads: int | None = None, library: Library | None = None) -> None:
        """`threads`: by default one for each physical core this process may use.

        Raises:
            NoKernelError: the kernel does not cover the model, or cannot run here.
        """
        self._model = model
        self._library = library or load_library()
        self.threads = threads or default_threads()
        self._description = Description(model, capacity=_TILE)
        self.dense = self._description.dense_layers
        if not self.dense:
            affordable = _CALL_WORK // max(1, self._description.multiplications) // _TILE * _TILE
            self._description.model.capacity = max(_TILE, min(_MOST_TOKENS, affordable))
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
        self._segments = (c.Segment * (model.config.num_layers * self.most_rows))()
        self._entered: list[tuple[weakref.ref[KVCache], int] | None] = [None] * self.most_rows
        ropes = [rope for rope in model.ropes if isinstance(rope, Rope)]
        self._rotations = [_Rotations(rope) for rope in ropes]
        self._rotation_table = (c.Rotation * max(1, len(ropes)))()
        self._last: tuple[Tensor, int] | None = None
        self._unread_bytes = 0
        self._tokens_of_bursts = 0

    @property
    def prefill_chunk(self) -> int:
        """Into how many tokens at a time a long text is best divided."""
        return _DENSE_PREFILL if self.dense else self._capacity

    @property
    def name(self) -> str:
        """What runs, for people."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"cpu kernel ({self._library.isa}, {threads}), {self._description.formats}"

    @property
    def unread_bytes(self) -> int:
        """See `BurstStep`."""
        spared: int = self._library.handle.llm_unread_bytes(self._context)
        return self._unread_bytes + self._tokens_of_bursts * spared

    @property
    def greatest(self) -> tuple[int, float] | None:
        """See `GreatestStep`."""
        if self._last is None:
            return None
        logits, place = self._last
        return place, c.float_at(logits.data_ptr(), place)

    def covers(self, tokens: int) -> bool:
        """Whether so many tokens are computed here rather than by the readable model."""
        return not self.dense or tokens <= _TILE

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        `ids` continue what `cache` holds; it is left as `Transformer.forward` leaves it, and either can go on.

        Raises:
            PromptTooLongError: a model with learned positions has none for so many tokens.
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
        """Logits in float32 of the token that follows each of `ids`, which continue as many texts: (R, V).

        Every matrix is read once for all of them. Each row is, to the last bit, what `forward` gives for that token
        alone: rows share nothing but the pass.

        Raises:
            PromptTooLongError: a model with learned positions has none for so many tokens.
        """
        starts = [cache.length for cache in caches]
        self._model.check_positions(max(starts) + 1)
        for row, cache in enumerate(caches):
            self._enter(cache, 1, row)
        lengths = [max(cache.length + 1, cache.expected_length) for cache in caches]
        # Named, so that the memory stays while the kernel reads it.
        rotations = [rotation.of(starts, lengths) for rotation in self._rotations]
        for index, (cos, sin) in enumerate(rotations):
            self._rotation_table[index] = c.Rotation(cos.data_ptr(), sin.data_ptr(), cos.shape[1])
        logits = self._compute(ids, 0, only_last=False, positions=starts)
        for cache in caches:
            cache.advance(1)
        return logits

    @torch.inference_mode()
    def forward_each(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, which continue what `cache` holds: (T, V).

        Logits and cache are, to the last bit, what as many calls of `forward` with one token each would give, while
        every matrix is read once. (`forward` itself adds up attention to several tokens in another order.)

        Raises:
            PromptTooLongError: a model with learned positions has none for so many tokens.
        """
        start, new = cache.length, len(ids)
        self._model.check_positions(start + new)
        first, last = (max(length, cache.expected_length) for length in (start + 1, start + new))
        if not self._model.rotated_alike(first, last):
            return torch.cat([self._call([token], cache, only_last=True) for token in ids])
        # As many texts, which share one memory: each token's keys are written before any token looks at keys, and it
        # looks no further than its own.
        self._enter(cache, new)
        for row in range(1, min(new, self.most_each)):
            self._enter_again(row)
        self._rotate(start, new, last)
        logits = self._compute(ids, 0, only_last=False, positions=range(start, start + new))
        cache.advance(new)
        return logits

    def chooses(self, filters: SamplingFilters) -> bool:
        """Whether it can choose by such filters: it knows them, and few tokens are left by them."""
        few = filters.temperature == 0 or 0 < filters.top_k <= _MOST_CANDIDATES
        return few and filters.active <= _FILTERS

    @torch.inference_mode()
    def forward_burst(self, token: int, cache: KVCache, choosing: SamplingRequest) -> list[int]:
        """See `BurstStep`: between two passes nobody is asked, and the weights alone go through the processor's caches.

        Raises:
            PromptTooLongError: a model with learned positions has none for so many tokens.
        """
        start, count, filters = cache.length, len(choosing.uniforms), choosing.filters
        self._model.check_positions(start + count)
        self._enter(cache, count)
        self._rotate(start, count, max(start + count, cache.expected_length))
        numbers = (ctypes.c_double * count)(*choosing.uniforms)
        ends = (ctypes.c_int32 * len(choosing.ends))(*choosing.ends)
        choice = c.Choice(
            temperature=filters.temperature,
            top_p=filters.top_p,
            min_p=filters.min_p,
            uniforms=ctypes.cast(numbers, ctypes.c_void_p),
            ends=ctypes.cast(ends, ctypes.c_void_p),
            top_k=filters.top_k,
            vocabulary=choosing.vocabulary,
            end_count=len(ends),
        )
        step = self._step([token], start, self._seen_by_nobody, only_last=True)
        self._last = None
        chosen = (ctypes.c_int32 * count)()
        with signals.alarm() as choice.alarm:
            made: int = self._library.handle.llm_generate(self._context, step, choice, count, chosen)
        _check(-min(made, 0))
        self._unread_bytes += step.unread
        self._tokens_of_bursts += made
        cache.advance(made)
        return chosen[:made]

    def _call(self, ids: Sequence[int], cache: KVCache, *, only_last: bool) -> Tensor:
        start, new = cache.length, len(ids)
        self._enter(cache, new)
        self._rotate(start, new, max(start + new, cache.expected_length))
        logits = self._compute(ids, start, only_last=only_last)
        cache.advance(new)
        return logits

    def _rotate(self, start: int, new: int, length: int) -> None:
        """Let the kernel know the rotations of `new` tokens of a text of `length`."""
        for index, rotation in enumerate(self._rotations):
            self._rotation_table[index] = c.Rotation(*rotation.at(start, new, length))

    def _enter(self, cache: KVCache, new: int, row: int = 0) -> None:
        """Let the kernel know the memory of a text, with room for `new` tokens."""
        cache.begin(new)
        known = self._entered[row]
        # Memory changes rarely, and asking every tensor where it is costs as much as a layer.
        if known is not None and known[0]() is cache and known[1] == cache.moves:
            return
        self._entered[row] = None
        for index, (keys, values, first) in enumerate(cache.layers, row * len(cache.layers)):
            if keys.shape[0] != 1 or keys.dtype != self._description.dtype:
                raise ValueError("the cache is not of this model, or holds several texts")
            self._segments[index] = c.Segment(keys.data_ptr(), values.data_ptr(), first, keys.shape[2])
        self._entered[row] = weakref.ref(cache), cache.moves

    def _enter_again(self, row: int) -> None:
        """The text that was entered as the first is that of another row too."""
        if self._entered[row] != self._entered[0]:
            size = ctypes.sizeof(c.Segment) * self._model.config.num_layers
            ctypes.memmove(ctypes.byref(self._segments, row * size), self._segments, size)
            self._entered[row] = self._entered[0]

    def _compute(
        self, ids: Sequence[int], start: int, *, only_last: bool, positions: Sequence[int] | None = None
    ) -> Tensor:
        """One call: `ids` continue a text from `start` on, or each the text of its row at its own of `positions`."""
        logits = torch.empty((1 if only_last else len(ids), self._model.config.vocab_size))
        step = self._step(ids, start, logits, only_last=only_last, positions=positions)
        _check(self._library.handle.llm_step(self._context, step))
        self._last = (logits, step.greatest) if only_last else None
        return logits

    @functools.cached_property
    def _seen_by_nobody(self) -> Tensor:
        """Room for the logits (1, V) of bursts: fresh memory the system would have to find, and zero, each time."""
        return torch.empty((1, self._model.config.vocab_size))

    def _step(
        self, ids: Sequence[int], start: int, logits: Tensor, *, only_last: bool, positions: Sequence[int] | None = None
    ) -> c.Pass:
        """What a call is to do; it writes `logits`."""
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
        """Addresses for the positions from `start` on in a text of `length` tokens, and values for each."""
        decisive = self._rope.config.decisive_length(length)
        if decisive != self._decisive or start < self._first or start + count > self._end:
            # What is interrupted here leaves no addresses of memory that is gone.
            self._end = -1
            positions = torch.arange(start, start + max(count, _ROTATIONS_AHEAD))
            # So little that waking torch's threads, while the kernel's have the cores, would take far longer.
            with one_thread():
                cos, sin = (part.contiguous() for part in self._rope(positions, torch.float32, length))
            self._kept = cos, sin
            self._cos_at, self._sin_at, self._half = cos.data_ptr(), sin.data_ptr(), cos.shape[1]
            self._first, self._end, self._decisive = start, start + len(positions), decisive
        skipped = (start - self._first) * self._half * 4
        return self._cos_at + skipped, self._sin_at + skipped, self._half

    def of(self, positions: Sequence[int], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (R, half) of one position in each of as many texts of so many tokens."""
        return self._rope.of_texts(torch.tensor(positions), torch.float32, lengths)


def _check(problem: int) -> None:
    if problem:
        raise ValueError(f"the kernel refuses the step: {problem}")


def _free(library: ctypes.CDLL, context: int, process: int) -> None:
    # A child process has the memory, but not the threads that would be waited for.
    if os.getpid() == process:
        library.llm_free(context)
