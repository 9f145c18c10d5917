"""The decode loop: read the prompt once, then one token at a time until something says stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import takewhile
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from llmcli.device import one_thread, peak_memory_bytes
from llmcli.engine.constraint import Constraint
from llmcli.engine.events import (
    AttentionRow,
    Candidate,
    Event,
    Filter,
    Finish,
    FinishReason,
    Prefill,
    SampledCandidate,
    Stats,
    Step,
)
from llmcli.engine.interruption import Interruption
from llmcli.engine.limits import allowed_context, check_prompt, memory_for_text
from llmcli.engine.outlook import outlook
from llmcli.engine.params import SamplingParams
from llmcli.engine.sampler import Sampler
from llmcli.kernels import FastStep, Hooks, readable_path
from llmcli.model import Transformer
from llmcli.text.detokenizer import Detokenizer
from llmcli.text.stop_strings import StopStrings
from llmcli.text.tokenizer import Tokenizer

# Long enough to keep the cores busy, short enough that masks and activations stay small.
_PREFILL_CHUNK = 512
# Of an expected reply, room is made for so many tokens at once: it costs as much as some tokens to make it later.
_RESERVED_AHEAD = 512

PrefillProgress: TypeAlias = Callable[[int, int], None]
"""Called with the tokens of the prompt read so far, and how many there are."""


class Observer(Protocol):
    """Someone who looks on while tokens are read."""

    def watching(self, start: int) -> AbstractContextManager[None]:
        """Look at the passes inside the block, the first of which reads the tokens from position `start` on."""

    def taken(self, ids: Sequence[int]) -> AttentionRow:
        """What the last of the tokens read, which are `ids`, paid attention to."""


class Engine:
    """Generates text with one model, and remembers in its KV cache what it has read.

    A prompt that begins like the previous one is only read from where it differs: in a chat, each turn costs its new
    tokens.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        stop_ids: Collection[int] = (),
        context_length: int | None = None,
        step: FastStep | None = None,
        why_readable: str = "",
    ) -> None:
        """`context_length` limits prompt and reply together, in tokens; by default it is what the model was made for.

        A fast `step` takes the place of the model unless someone looks into it; without one, `why_readable` says why.

        Raises:
            UsageError: `context_length` is more than the model was made for.
        """
        self.context_length = allowed_context(model.config, context_length)
        self._model = model
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        # Rows of the head beyond the tokenizer are padding; a tokenizer never exceeds them (checked on loading).
        self._vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self._step, self._why_readable = step, why_readable
        self._hooks = Hooks(model)
        self._cache = model.new_cache()
        self._cached_ids: list[int] = []

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        begun: Sequence[int] = (),
        probabilities: bool = True,
        top: int = 0,
        observer: Observer | None = None,
        constraint: Constraint | None = None,
        interruption: Interruption | None = None,
        progress: PrefillProgress | None = None,
    ) -> Iterator[Event]:
        """Generate a reply to `prompt_ids`: one `Prefill`, a `Step` for each token, one `Finish`.

        A reply that has `begun` with those tokens is continued: they are read with the prompt and come as its first
        steps, without probabilities.

        With `probabilities` every step carries its log-probability and entropy, and `top` alternatives; without, the
        plain path pays nothing for them. What an `observer` saw of attention comes with every step. A `constraint` says
        what may follow. `progress` hears how much of a long prompt has been read.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
            LlmcliError: or for none that the constraint allows.
        """
        ids = [*prompt_ids, *begun]
        check_prompt(ids, self.context_length)
        if constraint is not None:
            constraint.begin(self._room(len(ids), params.max_tokens if params else None))
        # Checked at the call, generated on demand.
        return self._generate(
            ids,
            begun,
            params or SamplingParams(),
            probabilities,
            top,
            observer,
            constraint,
            interruption or Interruption(),
            progress,
        )

    def _room(self, length: int, max_tokens: int | None) -> int:
        """How many tokens can follow a text of `length`, where `max_tokens` are wanted."""
        room = self.context_length - length
        return room if max_tokens is None else min(room, max_tokens)

    def next_logits(self, ids: Sequence[int], *, progress: PrefillProgress | None = None) -> Tensor:
        """Logits (V,) of the token that follows `ids`; as in `stream`, only what the cache does not hold is read.

        Raises:
            PromptTooLongError: the context has no room for that token.
        """
        check_prompt(ids, self.context_length)
        self._reuse_prefix(ids, len(ids))
        return self._read(ids, None, progress)

    def _generate(
        self,
        ids: list[int],
        begun: Sequence[int],
        params: SamplingParams,
        probabilities: bool,
        top: int,
        observer: Observer | None,
        constraint: Constraint | None,
        interruption: Interruption,
        progress: PrefillProgress | None,
    ) -> Iterator[Event]:
        prompt_tokens = len(ids)
        started = time.perf_counter()
        sampler, detokenizer, stops = Sampler(params), Detokenizer(self._tokenizer), StopStrings(params.stop)
        cached = self._reuse_prefix(ids, len(ids) + (params.max_tokens or 0))
        prefill_seconds: float | None = None
        first_at = last_at = 0.0
        count = 0
        reason: FinishReason | None = None
        try:
            with interruption.computing():
                logits = self._read(ids, observer, progress)
            prefill_seconds = time.perf_counter() - started
            yield Prefill(prompt_tokens, cached, prefill_seconds)
            for said in begun:
                yield Step(count, said, stops.push(detokenizer.push(said))[0])
                count += 1
            while reason is None:
                if interruption.requested:
                    reason = "interrupted"
                    break
                if len(ids) > prompt_tokens:
                    with interruption.computing():
                        logits = self._read(ids, observer)
                with self._undisturbed(observer):
                    allowed = logits
                    token: int | None
                    if constraint is not None:
                        left = None if params.max_tokens is None else params.max_tokens - (len(ids) - prompt_tokens)
                        room = self._room(len(ids), left)
                        allowed, distribution, token = constraint.choose(logits, sampler, ids, room)
                    elif probabilities:
                        distribution = sampler.distribution(logits, ids)
                        token = sampler.draw(distribution)
                    else:
                        token = sampler.choose(logits, ids)
                last_at = time.perf_counter()
                first_at = first_at or last_at
                if token is None or token in self._stop_ids:
                    reason = "stop"
                    break
                attention = None if observer is None else observer.taken(ids)
                ids.append(token)
                text, stopped = stops.push(detokenizer.push(token))
                step = Step(count, token, text, attention=attention)
                if probabilities:
                    with self._undisturbed(observer):
                        stages = sampler.stages(allowed, ids[:-1]) if top else {}
                        if constraint is not None:
                            stages = {"constraint": allowed > -torch.inf, **stages}
                        step = self._explained(step, logits, distribution, stages, top)
                yield step
                count += 1
                if stopped:
                    reason = "stop_string"
                elif constraint is not None and constraint.ended:
                    reason = "stop"
                elif len(ids) - prompt_tokens == params.max_tokens:
                    reason = "length"
                elif len(ids) == self.context_length:
                    reason = "context"
        except KeyboardInterrupt:
            if not interruption.requested:
                raise
            # It broke into a pass; the cache still ends at the last whole one.
            reason = "interrupted"
        held_back = "" if reason == "stop_string" else self._rest(stops, detokenizer)
        # The step that only met a stop token was computed too, so every interval since the first token counts.
        generated = len(ids) - prompt_tokens
        met_stop = reason == "stop" and (constraint is None or not constraint.ended)
        decoded = generated if met_stop else generated - 1
        stats = Stats(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            generated_tokens=generated,
            ttft_s=first_at - started if first_at else None,
            prefill_tokens_per_s=(prompt_tokens - cached) / prefill_seconds if prefill_seconds else None,
            decode_tokens_per_s=decoded / (last_at - first_at) if decoded > 0 and last_at > first_at else None,
            peak_memory_bytes=peak_memory_bytes(self._model.device),
            path=self._path(observer),
        )
        yield Finish(reason, stats, held_back)

    @staticmethod
    def _rest(stops: StopStrings, detokenizer: Detokenizer) -> str:
        text, stopped = stops.push(detokenizer.finish())
        return text if stopped else text + stops.finish()

    def _reuse_prefix(self, ids: Sequence[int], expected: int) -> int:
        """Keep of the cache what `ids` begin with, in a text of `expected` tokens; return how many tokens that is."""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._cached_ids, strict=False)))
        # The last token is always read: its logits are what generation starts from.
        same = self._cache.reusable(min(same, len(ids) - 1))
        if not self._model.rotated_alike(self._cache.expected_length, expected):
            same = 0
        self._keep(same, expected)
        return same

    def _keep(self, length: int, expected: int) -> None:
        self._cache.truncate(length)
        self._cache.expected_length = expected
        del self._cached_ids[length:]

    @torch.inference_mode()
    def _read(
        self, ids: Sequence[int], observer: Observer | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """Run what the cache does not hold yet of `ids` through the model; logits (V,) after the last token."""
        with memory_for_text(self._model, len(ids)):
            return self._read_new(ids, observer, progress)

    def _read_new(self, ids: Sequence[int], observer: Observer | None, progress: PrefillProgress | None) -> Tensor:
        logits: Tensor
        expected = self._cache.expected_length
        if len(ids) > expected and not self._model.rotated_alike(expected, len(ids)):
            # The text outgrew what was expected, and from here on is rotated in another way: it is read anew, once.
            self._keep(0, self.context_length)
        self._cache.reserve(max(len(ids), min(expected, len(ids) + _RESERVED_AHEAD)))
        with nullcontext() if observer is None else observer.watching(self._cache.length):
            step = self._fast_step(observer)
            size = _PREFILL_CHUNK if step is None else step.prefill_chunk
            for start in range(self._cache.length, len(ids), size):
                chunk = list(ids[start : start + size])
                if step is not None:
                    logits = step.forward(chunk, self._cache)
                else:
                    tensor = torch.tensor([chunk], device=self._model.device)
                    logits = self._model(tensor, self._cache, only_last=True)[0]
                self._cached_ids += chunk
                if progress is not None:
                    progress(len(self._cached_ids), len(ids))
        return logits[-1, : self._vocab_size]

    def _fast_step(self, observer: Observer | None) -> FastStep | None:
        """The fast path, unless someone looks into the model. Both can go on with what the other has cached."""
        return None if observer is not None or self._hooks else self._step

    def _undisturbed(self, observer: Observer | None) -> AbstractContextManager[None]:
        """One thread for torch beside a fast path."""
        return nullcontext() if self._fast_step(observer) is None else one_thread()

    def _path(self, observer: Observer | None) -> str:
        step = self._fast_step(observer)
        if step is not None:
            return step.name
        return readable_path(self._model, self._why_readable if self._step is None else "to look inside")

    def _explained(
        self, step: Step, logits: Tensor, distribution: Tensor, stages: Mapping[Filter, Tensor], top: int
    ) -> Step:
        seen = outlook(logits, step.id, self._tokenizer, top=top)
        return replace(
            step,
            logprob=seen.logprob,
            entropy=seen.entropy,
            rank=seen.rank,
            sampled_prob=float(distribution[step.id]),
            top=tuple(_sampled(candidate, distribution, stages) for candidate in seen.top),
        )


def _sampled(candidate: Candidate, distribution: Tensor, stages: Mapping[Filter, Tensor]) -> SampledCandidate:
    removed_by = next((name for name, left in stages.items() if left[candidate.id] == 0), None)
    probability = float(distribution[candidate.id])
    return SampledCandidate(candidate.id, candidate.text, candidate.logprob, probability, removed_by)
