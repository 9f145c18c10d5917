"""A text as a model has read it: what of it is in the KV cache, and how more gets there.

V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import takewhile
from typing import TypeAlias

import torch
from torch import Tensor

from llmcli.device import one_thread
from llmcli.engine.context_limit import memory_for_text
from llmcli.errors import NotFiniteError
from llmcli.kernels.base import (
    READABLE_CHUNK,
    BurstStep,
    DeviceStep,
    EachStep,
    FastStep,
    GreatestStep,
    Hooks,
    readable_path,
)
from llmcli.kernels.cuda.sampler import DeviceChoice
from llmcli.kernels.sampling_filters import SamplingFilters, SamplingRequest
from llmcli.model import Transformer
from llmcli.model.finite import check_logits, located

# Of an expected reply, room is made for so many tokens at once: it costs as much as some tokens to make it later.
_RESERVED_AHEAD = 512
# The most tokens that are read one by one in one pass: as many as fast paths take, and as a cache can always forget.
_MOST_EACH = 16
# Logits held at a time where those after every token are wanted: 64 MiB in float32.
_LOGITS_AT_ONCE = 1 << 24

PrefillProgress: TypeAlias = Callable[[int, int], None]
"""Called with the tokens of the prompt read so far, and how many there are."""


class PrefixCache:
    """Reads with one model, and remembers in its KV cache what it has read."""

    def __init__(
        self,
        model: Transformer,
        *,
        context_length: int,
        vocab_size: int,
        step: FastStep | None = None,
        why_readable: str = "",
    ) -> None:
        """A text has at most `context_length` tokens, and logits are those of the first `vocab_size` tokens.

        A fast `step` takes the place of the model unless someone looks into it; without one, `why_readable` says why.
        """
        self.context_length = context_length
        self._model, self._vocab_size = model, vocab_size
        self._step, self._why_readable = step, why_readable
        # Asked once: to look through a step's methods takes a hundredth of a millisecond.
        self._each_step = step if isinstance(step, EachStep) else None
        self._greatest_step = step if isinstance(step, GreatestStep) else None
        self._device_step = step if isinstance(step, DeviceStep) else None
        self._burst_step = step if isinstance(step, BurstStep) else None
        self._hooks = Hooks(model)
        self.is_looked_into = bool(self._hooks)
        """Whether someone looked into the model, or changed what it computes, when the text was begun."""
        self._cache = model.new_cache()
        self._cached_ids: list[int] = []
        self.begun = 0
        """How many texts were begun."""
        self._choice: DeviceChoice | None = None
        self._greatest: tuple[Tensor, tuple[int, float]] | None = None
        self._after_prompt: tuple[int, Tensor] | None = None
        """The first logits of the text that was begun, and after how many tokens they came."""

    def begin(self, ids: Sequence[int], expected: int) -> int:
        """Keep of the cache what `ids` begin with, in a text of `expected` tokens; return how many tokens that is."""
        self.begun += 1
        self._after_prompt = None
        # Not asked at every token: to look at a thousand empty lists of hooks takes as long as a layer.
        self.is_looked_into = bool(self._hooks)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._cached_ids, strict=False)))
        # The last token is always read: its logits are what generation starts from.
        same = self._cache.reusable(min(same, len(ids) - 1))
        if not self._model.rotated_alike(self._cache.expected_length, expected):
            same = 0
        self._keep(same, expected)
        return same

    def agree(self, ids: Sequence[int], known: int) -> int:
        """Keep of the cache what `ids` begin with, as the first `known` of them do; return how many tokens that is.

        For the text that was begun, which grew: all but the last few tokens that were read belong to it.
        """
        end = min(len(self._cached_ids), len(ids) - 1)
        same = min(known, end)
        while same < end and self._cached_ids[same] == ids[same]:
            same += 1
        self.go_back(same)
        return same

    def go_back(self, length: int) -> None:
        """Forget all but the first `length` tokens, no more than have been read since the reply began."""
        self._keep(length, self._cache.expected_length)

    @property
    def length(self) -> int:
        """Tokens that have been read."""
        return self._cache.length

    @torch.inference_mode()
    def read(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> Tensor:
        """Run what the cache does not hold yet of `ids` through the model; logits (V,) after the last token."""
        with memory_for_text(self._model, len(ids)):
            return self._read(ids, progress)

    def greatest(self, logits: Tensor) -> tuple[int, float] | None:
        """The first of the greatest of `logits`, and what it is, if `read` gave them last and has searched them.

        One that is not a number counts as the greatest.
        """
        return self._greatest[1] if self._greatest is not None and self._greatest[0] is logits else None

    def most_each(self, length: int) -> int:
        """How many tokens `read_each` can take when the text has `length` tokens with the first of them."""
        expected = self._cache.expected_length
        most = min(_MOST_EACH, self.context_length - length + 1)
        if self._each_step is not None:
            most = min(most, self._each_step.most_each)
        # Where longer texts are rotated in another way, all of it is read anew, by a pass that looks no further.
        return most if self._model.rotated_alike(expected, max(expected, length + most - 1)) else 1

    @torch.inference_mode()
    def read_each(self, ids: Sequence[int]) -> Tensor:
        """Logits (T, V) after each of the tokens of `ids` that the cache does not hold yet, `most_each` at most.

        On a fast path that can, each is to the last bit what `read` would have given. Elsewhere a pass of several
        tokens adds up in another order than one of a single token.
        """
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
            chunk = list(ids[self._cache.length :])
            step = self.fast_step()
            if step is not None and self._each_step is not None:
                logits = self._each_step.forward_each(chunk, self._cache)
                self._cached_ids += chunk
            else:
                logits = self._pass(chunk, step, only_last=False)
            return logits[:, : self._vocab_size]

    def read_along(
        self, ids: Sequence[int], progress: PrefillProgress | None = None, *, logits_at_once: int = _LOGITS_AT_ONCE
    ) -> Iterator[Tensor]:
        """Logits (t, V) after each of the tokens of `ids` that the cache does not hold yet, `logits_at_once` at a time.

        They are computed as a prompt is read, which adds up in another order than one token at a time.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        size = max(1, logits_at_once // self._vocab_size)
        with torch.inference_mode(), memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
        step = self.fast_step()
        size = min(size, READABLE_CHUNK if step is None else step.prefill_chunk)
        for start in range(self._cache.length, len(ids), size):
            chunk = list(ids[start : start + size])
            # Not around the loop: while a generator waits, such settings would hold for its caller.
            with torch.inference_mode(), memory_for_text(self._model, len(ids)), self._locating(ids[: start + size]):
                logits = check_logits(self._pass(chunk, step, only_last=False)[:, : self._vocab_size])
            if progress is not None:
                progress(len(self._cached_ids), len(ids))
            yield logits

    def read_checked(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> Tensor:
        """What `read` gives, for those that do not choose a token by it, which is a check of its own.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        with self._locating(ids):
            return check_logits(self.read(ids, progress))

    @torch.inference_mode()
    def read_again(self, ids: Sequence[int], prompt: int, progress: PrefillProgress | None = None) -> Tensor:
        """Logits (V,) after `ids`, of which the first `prompt` are a prompt and the rest a reply to it.

        The next text goes on as if they had not been asked for: what is cached stays as it is. Where it holds the text,
        they are what the reply was chosen by; only the last token is read again. Elsewhere all of it is read into
        another cache, the reply as a fast path reads it one by one, if there is one that can do so quickly.

        Raises:
            NotFiniteError: logits are NaN or infinite.
        """
        last = len(ids) - 1
        holds = self._cached_ids[:last] == list(ids[:last]) and self._cache.reusable(last) == last > 0
        with self._locating(ids):
            first = self._after_prompt
            if first is not None and first[0] == len(ids) and self._cached_ids[: len(ids)] == list(ids):
                return check_logits(first[1])
            fits = last < self._cache.length or self._model.rotated_alike(self._cache.expected_length, len(ids))
            if holds and fits and len(ids) > prompt:
                return check_logits(self._read_last(ids))
            with self._another_cache():
                return check_logits(self._read_reply(ids, min(prompt, len(ids)), progress))

    def _read_last(self, ids: Sequence[int]) -> Tensor:
        cached = self._cached_ids
        with memory_for_text(self._model, len(ids)):
            self._make_room(len(ids))
            with self._cache.rereading(len(ids) - 1):
                try:
                    self._cached_ids = cached[: len(ids) - 1]
                    return self._pass([ids[-1]], self.fast_step())[-1, : self._vocab_size]
                finally:
                    self._cached_ids = cached

    def _read_reply(self, ids: Sequence[int], prompt: int, progress: PrefillProgress | None) -> Tensor:
        def tell(done: int, _total: int) -> None:
            if progress is not None:
                progress(done, len(ids))

        self.begin(ids[:prompt], len(ids))
        logits = self.read(ids[:prompt], tell)
        if self._each_step is None or self.is_looked_into:
            return self.read(ids, tell) if prompt < len(ids) else logits
        while (length := self.length) < len(ids):
            logits = self.read_each(ids[: length + self.most_each(length + 1)])[-1]
            tell(self.length, len(ids))
        return logits

    @contextmanager
    def _another_cache(self) -> Iterator[None]:
        """Inside the block nothing is cached; afterwards what was before."""
        kept = self._cache, self._cached_ids, self._after_prompt, self.is_looked_into, self.begun
        self._cache, self._cached_ids = self._model.new_cache(), []
        try:
            yield
        finally:
            self._cache, self._cached_ids, self._after_prompt, self.is_looked_into, self.begun = kept

    def bursts(self, filters: SamplingFilters) -> bool:
        """Whether the fast path can choose tokens by such filters and go on by itself."""
        return self._burst_step is not None and self._burst_step.chooses(filters) and not self.is_looked_into

    def most_burst(self, length: int) -> int:
        """How many tokens `read_burst` can choose after a text of `length`, of which it has yet to read the last."""
        return self.most_each(length) if length == self._cache.length + 1 and self.can_draw(length) else 0

    @torch.inference_mode()
    def read_burst(
        self, ids: Sequence[int], filters: SamplingFilters, uniforms: Sequence[float], ends: Sequence[int]
    ) -> list[int]:
        """The tokens that follow `ids`, `most_burst` at most: one by each of the numbers from 0 to 1, until an end or a
        signal.

        All but the last are read. -1, and the last: the logits are no finite numbers.
        """
        assert self._burst_step is not None
        with memory_for_text(self._model, length := len(ids) + len(uniforms) - 1):
            self._make_room(length)
            choosing = SamplingRequest(filters, uniforms, self._vocab_size, ends)
            chosen = self._burst_step.forward_burst(ids[-1], self._cache, choosing)
        self._cached_ids += (ids[-1], *chosen[:-1])
        return chosen

    def draws(self, filters: SamplingFilters) -> bool:
        """Whether the fast path can go on with tokens that were chosen by such filters on the device, and not seen."""
        return self._device_step is not None and DeviceChoice.chooses(filters)

    def can_draw(self, length: int) -> bool:
        """Whether that can be after a text of `length` tokens, where it can be at all."""
        expected = self._cache.expected_length
        # Where longer texts are rotated in another way, all of it is read anew.
        return self._model.rotated_alike(expected, max(expected, length)) and not self.is_looked_into

    @torch.inference_mode()
    def begin_to_draw(self, filters: SamplingFilters, ids: Sequence[int]) -> None:
        """Choose tokens on the device, by such filters, after `ids`, of which the last has not been read yet."""
        if self._choice is None:
            self._choice = DeviceChoice(self._vocab_size, self._model.device)
        self._choice.begin(filters, ids)

    @torch.inference_mode()
    def draw(self, uniform: float) -> None:
        """Read the last token, and choose the next by a random number from 0 to 1; on a GPU nothing waits for it."""
        assert self._device_step is not None and self._choice is not None
        with memory_for_text(self._model, length := self._cache.length + 1):
            self._make_room(length)
            logits = self._device_step.forward_unseen(self._choice.token, self._cache)
            self._choice.choose(logits[0, : self._vocab_size], uniform)

    def drawn(self) -> int:
        """The first token drawn of those not seen yet, as soon as it is there; -1: the logits are no numbers."""
        assert self._choice is not None
        return self._choice.chosen()

    def accept_tokens(self, ids: Sequence[int]) -> None:
        """Of what has been drawn the text has `ids`: forget what was read beyond them."""
        length = min(self._cache.length, len(ids))
        self._cached_ids += ids[len(self._cached_ids) : length]
        self.go_back(length)

    def fast_step(self) -> FastStep | None:
        """The fast path, unless someone looks into the model. Both can go on with what the other has cached."""
        return None if self.is_looked_into else self._step

    def undisturbed(self) -> AbstractContextManager[None]:
        """One thread for torch beside a fast path."""
        return nullcontext() if self.fast_step() is None else one_thread()

    def path(self) -> str:
        """What computes, for people."""
        step = None if self._hooks else self.fast_step()
        if step is not None:
            return step.name
        return readable_path(self._model, self._why_readable if self._step is None else "to look inside")

    def located(self, error: NotFiniteError, ids: Sequence[int]) -> NotFiniteError:
        """`error`, which names the layer that makes it if the readable model makes it too of the text `ids`."""
        return located(error, lambda part: self._model(torch.tensor([part], device=self._model.device)), ids)

    @contextmanager
    def _locating(self, ids: Sequence[int]) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            raise self.located(error, ids) from None

    def _read(self, ids: Sequence[int], progress: PrefillProgress | None) -> Tensor:
        logits: Tensor
        self._make_room(len(ids))
        step = self.fast_step()
        size = READABLE_CHUNK if step is None else step.prefill_chunk
        for start in range(self._cache.length, len(ids), size):
            logits = self._pass(list(ids[start : start + size]), step)
            if progress is not None:
                progress(len(self._cached_ids), len(ids))
        last = logits[-1, : self._vocab_size]
        found = None if self._greatest_step is None or step is None else self._greatest_step.greatest
        # A padded vocabulary ends with tokens that nobody can choose.
        self._greatest = None if found is None or found[0] >= self._vocab_size else (last, found)
        if self._after_prompt is None:
            self._after_prompt = len(ids), last.clone()
        return last

    def _keep(self, length: int, expected: int) -> None:
        self._cache.truncate(length)
        self._cache.expected_length = expected
        del self._cached_ids[length:]

    def _make_room(self, length: int) -> None:
        expected = self._cache.expected_length
        if length > expected and not self._model.rotated_alike(expected, length):
            # The text outgrew what was expected, and from here on is rotated in another way: it is read anew, once.
            self._keep(0, self.context_length)
        self._cache.reserve(max(length, min(self._cache.expected_length, length + _RESERVED_AHEAD)))

    def _pass(self, chunk: list[int], step: FastStep | None, *, only_last: bool = True) -> Tensor:
        """Logits after the last of `chunk`, or after each."""
        if step is None:
            tensor = torch.tensor([chunk], device=self._model.device)
            logits: Tensor = self._model(tensor, self._cache, only_last=only_last)[0]
        else:
            logits = step.forward(chunk, self._cache, only_last=only_last)
        self._cached_ids += chunk
        return logits
