"""The prefix cache: one model's KV cache, the ids that it holds, and the passes that extend it.

V is the vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import takewhile

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.context_limit import memory_for_text
from llmcli.engine.prefill import PrefillProgress, prefill, read_chunks
from llmcli.errors import NotFiniteError
from llmcli.kernels.base import FastStep, Hooks
from llmcli.kernels.cuda.sampler import DeviceChoice
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest
from llmcli.model import Transformer
from llmcli.model.finite import check_logits

# Tokens to reserve ahead in the cache: reserving costs as much time as several tokens.
_RESERVED_AHEAD = 512
# The most tokens that are verified in one pass: the limit of the kernels, and few enough for every cache to drop.
_MOST_EACH = 16
# Logits in memory at a time where those after every token are needed: 64 MiB in float32.
_LOGITS_AT_ONCE = 1 << 24


class PrefixCache:
    """Reads texts with one model. If a text begins like the cached one, only the rest of it is read."""

    def __init__(
        self,
        model: Transformer,
        *,
        context_length: int,
        vocab_size: int,
        step: FastStep | None = None,
    ) -> None:
        """A text has at most `context_length` tokens, and logits are those of the first `vocab_size` tokens.

        `step` makes the passes, by default the readable model; that also runs while the model has forward hooks.
        """
        self.context_length = context_length
        self._model, self._vocab_size = model, vocab_size
        self._fastest = step or ReadableStep(model)
        is_readable = self._fastest.capabilities.is_readable
        self._readable = self._fastest if is_readable else ReadableStep(model, "to look inside")
        self._hooks = Hooks(model)
        self.has_hooks = bool(self._hooks)
        """Whether the model had forward hooks when the text began."""
        self._cache = model.new_cache()
        self._cached_ids: list[int] = []
        self.begun = 0
        """How many times `begin` was called."""
        self._device_choice: DeviceChoice | None = None
        self._greatest: tuple[Tensor, tuple[int, float]] | None = None
        self._after_prompt: tuple[int, Tensor] | None = None
        """The number of tokens of the prompt, and the logits after it."""

    # Contents of the cache.

    def begin(self, ids: Sequence[int], longest: int, *, again: bool = False) -> int:
        """Begin a text that can have `longest` tokens; return how many of `ids` the cache holds from their start.

        The last of `ids` is always left to be read, for its logits. With `again` it is not if `ids` is the prompt of
        the text before: `read` then returns the same logits, so that another reply to a prompt has the bits it would
        have alone, which a pass of only the last token would not give.

        Of a model with states, the cache keeps only the beginning up to a mark. One is set where the text before ends,
        so that what follows can be taken back.

        RoPE variants that depend on the length of a text use `longest` until the next text begins.
        """
        self.begun += 1
        # Not checked at every token: reading a thousand empty dictionaries of hooks takes as long as a layer.
        self.has_hooks = bool(self._hooks)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._cached_ids, strict=False)))
        known = self._after_prompt is not None and self._after_prompt[0] == len(ids)
        is_known = again and known and not self.has_hooks
        same = self._cache.reusable(min(same, len(ids) if is_known else len(ids) - 1))
        if not self._model.rotated_alike(self._cache.expected_length, longest):
            same = 0
        if same < len(ids):
            self._after_prompt = None
        self._keep(same, longest)
        self._cache.mark()
        return same

    def keep_common(self, ids: Sequence[int], known: int) -> int:
        """Drop cached tokens that differ from `ids`; return how many are left. The first `known` are known to agree.

        For the current text after it has grown: only the last few cached tokens can differ. More are dropped of a model
        with states, as by `truncate`.
        """
        end = min(len(self._cached_ids), len(ids) - 1)
        same = min(known, end)
        while same < end and self._cached_ids[same] == ids[same]:
            same += 1
        return self.truncate(same)

    def truncate(self, length: int) -> int:
        """Drop all but the first `length` tokens; return how many are left.

        Those are fewer if the model has states and there is no mark (see `KVCache.reusable`), or if a layer has dropped
        earlier tokens. The next pass reads what is missing.
        """
        kept = self._cache.reusable(length)
        self._keep(kept, self._cache.expected_length)
        return kept

    def mark(self) -> None:
        """Allow going back to the present length of the text, until the next call."""
        self._cache.mark(brief=True)

    def accept_tokens(self, ids: Sequence[int]) -> None:
        """The text is `ids`: drop what was read beyond them."""
        length = min(self._cache.length, len(ids))
        self._cached_ids += ids[len(self._cached_ids) : length]
        self.truncate(length)

    @property
    def length(self) -> int:
        """Tokens that have been read."""
        return self._cache.length

    # The step that computes.

    @property
    def step(self) -> FastStep:
        """The step for the passes of this text. Each step can continue from a cache that another has filled."""
        return self._readable if self.has_hooks else self._fastest

    def path(self) -> str:
        """The name of the step that computes, for display."""
        return (self._readable if self._hooks else self.step).name

    def sampling_threads(self) -> AbstractContextManager[None]:
        """One thread for torch where a kernel makes the passes: sampling is too little work to wake more."""
        return nullcontext() if self.step.capabilities.is_readable else one_thread()

    # Passes.

    @torch.inference_mode()
    def read(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> Tensor:
        """Read what the cache does not hold yet of `ids`; logits (V,) after the last token."""
        if self._after_prompt is not None and self._after_prompt[0] == len(ids) == self._cache.length:
            self._greatest = None
            return self._after_prompt[1].clone()
        step = self.step
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
            try:
                logits = prefill(step, self._cache, ids, progress, is_prompt=self._after_prompt is None)
                last = logits[: self._vocab_size]
            finally:
                self._note_read(ids)
        found = step.greatest
        # Rows that pad the head are not tokens.
        self._greatest = None if found is None or found[0] >= self._vocab_size else (last, found)
        if self._after_prompt is None:
            self._after_prompt = len(ids), last.clone()
        return last

    def greatest(self, logits: Tensor) -> tuple[int, float] | None:
        """The id of the first of the greatest `logits` and its value, if the last `read` returned and searched them.

        A logit that is NaN counts as the greatest.
        """
        return self._greatest[1] if self._greatest is not None and self._greatest[0] is logits else None

    def most_each(self, length: int) -> int:
        """How many tokens `read_each` can take if the first of them is token number `length` of the text."""
        limit = self._fastest.capabilities.most_each
        # Tokens before that are unread too where a model with states had to go back further.
        unread = max(0, length - 1 - self._cache.length)
        most = (min(_MOST_EACH, limit) if limit > 1 else _MOST_EACH) - unread
        return min(most, self._cache.expected_length - length + 1)

    @torch.inference_mode()
    def read_each(self, ids: Sequence[int], count: int) -> Tensor:
        """Logits (T, V) after each of the last `count` tokens of `ids`, `most_each` at most, which are unread.

        Earlier unread tokens are read too. With a step whose `most_each` is more than 1, the logits equal those of
        single passes to the last bit. With others, a pass of several tokens sums in another order.
        """
        step = self.step
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
            chunk = ids[self._cache.length :]
            try:
                if step.capabilities.most_each > 1:
                    logits = step.forward_each(chunk, self._cache)
                else:
                    logits = step.forward(chunk, self._cache, only_last=False)
            finally:
                self._note_read(ids)
            return logits[-count:, : self._vocab_size]

    def can_multi_step(self, filters: SamplingFilters) -> bool:
        """Whether the step can choose tokens by `filters` and read them without the host."""
        return self.step.capabilities.chooses(filters)

    @torch.inference_mode()
    def multi_step(
        self, ids: Sequence[int], filters: SamplingFilters, uniforms: Sequence[float], ends: Sequence[int]
    ) -> list[int]:
        """The tokens that follow `ids`, one for each of the numbers `uniforms` from 0 to 1.

        All chosen tokens but the last are read. Fewer come after one of `ends`, after a signal, or after -1: logits are
        not finite.
        """
        if self._cache.length < len(ids) - 1:
            # A model with states has gone back further than to the last token.
            self.read(ids[:-1])
        with memory_for_text(self._model, length := len(ids) + len(uniforms) - 1):
            self._make_room(length)
            request = SamplingRequest(filters, uniforms, self._vocab_size, ends)
            chosen = self._fastest.forward_multi_step(ids[-1], self._cache, request)
        self._cached_ids += (ids[-1], *chosen[:-1])
        return chosen

    def can_pipeline(self, filters: SamplingFilters) -> bool:
        """Whether tokens can be chosen on the device by `filters`, and read there before the host knows them."""
        return self.step.capabilities.device_tokens and DeviceChoice.chooses(filters)

    @torch.inference_mode()
    def begin_pipeline(self, filters: SamplingFilters, ids: Sequence[int]) -> None:
        """Choose tokens on the device by `filters` after `ids`, whose last token is yet to be read."""
        if self._device_choice is None:
            self._device_choice = DeviceChoice(self._vocab_size, self._model.device)
        self._device_choice.begin(filters, ids)

    @torch.inference_mode()
    def launch_step(self, uniform: float) -> None:
        """Read the last token and choose the next by a number from 0 to 1; on a GPU the host does not wait for it."""
        assert self._device_choice is not None
        with memory_for_text(self._model, length := self._cache.length + 1):
            self._make_room(length)
            logits = self._fastest.forward_device_token(self._device_choice.token, self._cache)
            self._device_choice.choose(logits[0, : self._vocab_size], uniform)

    def await_token(self) -> int:
        """The first token chosen by `launch_step` that has not been returned yet; -1: logits are not finite."""
        assert self._device_choice is not None
        return self._device_choice.chosen()

    # Logits of a whole text, and of an earlier reply.

    def read_along(
        self, ids: Sequence[int], progress: PrefillProgress | None = None, *, logits_at_once: int = _LOGITS_AT_ONCE
    ) -> Iterator[Tensor]:
        """Logits (t, V) after each of the tokens of `ids` that the cache does not hold yet, `logits_at_once` at a time.

        They are computed as a prompt is read, which sums in another order than one token at a time.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
        step = self.step
        size = min(max(1, logits_at_once // self._vocab_size), step.prefill_chunk)
        chunks = read_chunks(step, self._cache, ids, chunk=size, only_last=False)
        while (start := self._cache.length) < len(ids):
            # Not around the loop: while a generator waits, inference mode would apply to its caller.
            with torch.inference_mode(), memory_for_text(self._model, len(ids)), self._locating(ids[: start + size]):
                try:
                    logits = next(chunks)
                finally:
                    self._note_read(ids)
                check_logits(logits := logits[:, : self._vocab_size])
            if progress is not None:
                progress(len(self._cached_ids), len(ids))
            yield logits

    def read_checked(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> Tensor:
        """`read` with a check of the logits, for callers without a sampler, which would check them.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        with self._locating(ids):
            return check_logits(self.read(ids, progress))

    @torch.inference_mode()
    def read_again(self, ids: Sequence[int], prompt: int, progress: PrefillProgress | None = None) -> Tensor:
        """Logits (V,) after `ids`: `prompt` tokens of a prompt, then a reply to it.

        The cache does not change, so the next text is read as without this call. If the cache holds `ids`, the result
        is the logits that the reply was chosen from, and only the last token is read again. Otherwise all of `ids` is
        read into another cache: the reply token by token if the step does that fast.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        last = len(ids) - 1
        holds = self._cached_ids[:last] == list(ids[:last]) and self._cache.reusable(last) == last > 0
        with self._locating(ids):
            first = self._after_prompt
            if first is not None and first[0] == len(ids) and self._cached_ids[: len(ids)] == list(ids):
                return check_logits(first[1])
            longest = max(len(ids), self._cache.expected_length)
            if holds and len(ids) > prompt and self._model.rotated_alike(self._cache.expected_length, longest):
                return check_logits(self._read_last(ids))
            with self._another_cache():
                return check_logits(self._read_reply(ids, min(prompt, len(ids)), longest, progress))

    def located(self, error: NotFiniteError, ids: Sequence[int]) -> NotFiniteError:
        """`error`, naming the layer it comes from if the readable model raises it too for the text `ids`."""
        return self._model.located(error, ids)

    def _read_last(self, ids: Sequence[int]) -> Tensor:
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
            with self._cache.rereading(len(ids) - 1):
                return self.step.forward([ids[-1]], self._cache)[-1, : self._vocab_size]

    def _read_reply(self, ids: Sequence[int], prompt: int, longest: int, progress: PrefillProgress | None) -> Tensor:
        def report(done: int, _total: int) -> None:
            if progress is not None:
                progress(done, len(ids))

        self.begin(ids[:prompt], longest)
        logits = self.read(ids[:prompt], report)
        if self.step.capabilities.most_each == 1:
            return self.read(ids, report) if prompt < len(ids) else logits
        while (length := self.length) < len(ids):
            logits = self.read_each(ids[: length + self.most_each(length + 1)], 1)[-1]
            report(self.length, len(ids))
        return logits

    @contextmanager
    def _another_cache(self) -> Iterator[None]:
        """Use another, empty cache inside the block; restore this one afterwards."""
        kept = self._cache, self._cached_ids, self._after_prompt, self.has_hooks, self.begun
        self._cache, self._cached_ids = self._model.new_cache(), []
        try:
            yield
        finally:
            self._cache, self._cached_ids, self._after_prompt, self.has_hooks, self.begun = kept

    @contextmanager
    def _locating(self, ids: Sequence[int]) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            raise self.located(error, ids) from None

    def _note_read(self, ids: Sequence[int]) -> None:
        """Record the tokens of `ids` that the cache has grown by; its length counts, as passes may be interrupted."""
        self._cached_ids += ids[len(self._cached_ids) : self._cache.length]

    def _keep(self, length: int, expected: int) -> None:
        self._cache.truncate(length)
        self._cache.expected_length = expected
        del self._cached_ids[length:]

    def _make_room(self, length: int) -> None:
        self._cache.reserve(max(length, min(self._cache.expected_length, length + _RESERVED_AHEAD)))
