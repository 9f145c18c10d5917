"""The decode loop: read the prompt once, then one token at a time until something says stop."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmcli.device import peak_memory_bytes
from llmcli.engine.context_limit import allowed_context, check_prompt
from llmcli.engine.decoders.gpu_pipelined import PipelinedDecoder
from llmcli.engine.decoders.multi_step import UNSEEN_S, MultiStepDecoder
from llmcli.engine.events import (
    Candidate,
    Event,
    Filter,
    Finish,
    FinishReason,
    Origin,
    Prefill,
    SampledCandidate,
    Stats,
    Step,
)
from llmcli.engine.guided.answer_form import AnswerForm
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.interrupt import Interruption
from llmcli.engine.logprobs import token_logprobs
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.reply_text import ReplyText
from llmcli.engine.sampler import Sampler, sampler_for
from llmcli.engine.sampling_params import SamplingParams
from llmcli.engine.speculative.decoder import SpeculationState, SpeculativeDecoder
from llmcli.engine.speculative.rejection_sampling import Proposal, accept_or_resample
from llmcli.errors import NotFiniteError
from llmcli.kernels.base import FastStep
from llmcli.model import Transformer
from llmcli.model.finite import check_logits
from llmcli.text.reasoning import ReplyStart
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer

__all__ = ["Engine", "PrefillProgress"]


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
        stop_texts: Sequence[str] = (),
        thinks: bool = False,
        context_length: int | None = None,
        step: FastStep | None = None,
        speculation: SpeculationState | None = None,
        unseen_s: float = UNSEEN_S,
    ) -> None:
        """`context_length` limits prompt and reply together, in tokens; by default it is what the model was made for.

        The model ends a reply with one of the `stop_ids` or, where its end is no single token, of the `stop_texts`.
        Whether it `thinks` before it answers is read from the end of each prompt: so it is for prompts in a chat
        template, not for texts to continue.
        `step` makes the passes, by default the readable model, which also does while the model has forward hooks.
        With `speculation`, several tokens are verified in a pass, unless the model has forward hooks.
        A fast path may choose the tokens of `unseen_s` seconds before they are seen.

        Raises:
            UsageError: `context_length` is more than the model was made for.
        """
        self.context_length = allowed_context(model.config, context_length)
        self._model = model
        self._tokenizer = tokenizer
        # Rows of the head beyond the tokenizer are padding; a tokenizer never exceeds them (checked on loading).
        vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        # No others can come, and kernels know no others.
        self._stop_ids = frozenset(stop for stop in stop_ids if 0 <= stop < vocab_size)
        self._stop_texts, self._thinks = tuple(stop_texts), thinks
        self._speculation, self._unseen_s = speculation, unseen_s
        self._prefix_cache = PrefixCache(
            model,
            context_length=self.context_length,
            vocab_size=vocab_size,
            step=step,
        )

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        begun: Sequence[int] = (),
        probabilities: bool = True,
        top: int = 0,
        constraint: Constraint | None = None,
        start: ReplyStart | None = None,
        interruption: Interruption | None = None,
        progress: PrefillProgress | None = None,
    ) -> Iterator[Event]:
        """Generate a reply to `prompt_ids`: one `Prefill`, a `Step` for each token, one `Finish`.

        A reply that has `begun` with those tokens is continued: they are read with the prompt and come as its first
        steps, without probabilities.

        With `probabilities` every step carries its log-probability and entropy, and `top` alternatives; without, the
        plain path pays nothing for them. `progress` hears how much of a long prompt has been read.

        `start` says whether the reply begins in a thought, and with what `prefill` at the end of `prompt_ids`, as
        `build_chat` knows; by default the end of the prompt is looked at, where the engine is for one that thinks. A
        `constraint` says what may follow, and the stop strings end the reply, once the answer begins (see
        `AnswerForm`); the texts of the events hold thoughts and marks too, for `ThinkingApart` to separate.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
            LlmcliError: or for none that the constraint allows.
            NotFiniteError: while the reply is generated, logits are NaN or infinite.
        """
        ids = [*prompt_ids, *begun]
        check_prompt(ids, self.context_length)
        if constraint is not None:
            constraint.begin(self._room(len(ids), params.max_tokens if params else None))
        if start is None and self._thinks:
            start = reply_start(self._tokenizer, prompt_ids)
        params = params or SamplingParams()
        reply = ReplyText(
            self._tokenizer, params, stop_texts=self._stop_texts, start=start, exact=constraint is not None
        )
        form = None if constraint is None else AnswerForm(constraint, self._tokenizer, reply)
        # Checked at the call, generated on demand.
        return self._generate(
            ids,
            begun,
            params,
            reply,
            form,
            probabilities,
            top,
            interruption or Interruption(),
            progress,
        )

    def _room(self, length: int, max_tokens: int | None) -> int:
        """How many tokens can follow a text of `length`, where `max_tokens` are wanted."""
        room = self.context_length - length
        return room if max_tokens is None else min(room, max_tokens)

    @property
    def path(self) -> str:
        """What computes, for people."""
        return self._prefix_cache.path()

    def next_logits(
        self, ids: Sequence[int], *, prompt: int | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """Logits (V,) of the token that follows `ids`: of a reply to the first `prompt` tokens, by default to all.

        As far as the engine still has the text in its cache, they are those that the reply was chosen by. What it
        remembers does not change: a reply that comes next is the same as without.

        Raises:
            PromptTooLongError: the context has no room for that token.
            NotFiniteError: the logits are NaN or infinite.
        """
        check_prompt(ids, self.context_length)
        return self._prefix_cache.read_again(ids, len(ids) if prompt is None else prompt, progress)

    def _generate(
        self,
        ids: list[int],
        begun: Sequence[int],
        params: SamplingParams,
        reply: ReplyText,
        form: AnswerForm | None,
        probabilities: bool,
        top: int,
        interruption: Interruption,
        progress: PrefillProgress | None,
    ) -> Iterator[Event]:
        prompt_tokens = len(ids)
        started = time.perf_counter()
        sampler = sampler_for(params, self._tokenizer)
        cached = self._prefix_cache.begin(ids, len(ids) + (params.max_tokens or 0))
        text_begun = self._prefix_cache.begun
        # Nobody wants to see the logits.
        unseen = not probabilities and form is None
        burst = self._burst(sampler, prompt_tokens) if unseen else None
        ahead = self._ahead(prompt_tokens, sampler, burst, constrained=form is not None)
        drawn: PipelinedDecoder | MultiStepDecoder | None = None
        if unseen and ahead is None:
            drawn = self._drawn(sampler, prompt_tokens) or burst
        prefill_seconds: float | None = None
        first_at = last_at = 0.0
        count = 0
        reason: FinishReason | None = None
        try:
            with interruption.computing():
                logits = self._prefix_cache.read(ids, progress)
            prefill_seconds = time.perf_counter() - started
            yield Prefill(prompt_tokens, cached, prefill_seconds)
            for said in begun:
                yield Step(count, said, reply.push(said))
                count += 1
            while reason is None:
                if interruption.requested:
                    reason = "interrupted"
                    break
                proposal: Proposal | None = None
                token: int | None = None
                if len(ids) > prompt_tokens:
                    with interruption.computing():
                        if ahead is not None:
                            token = ahead.chosen(ids)
                            if token is None:
                                logits, proposal = ahead.next(ids)
                        elif drawn is not None:
                            token = drawn.next(ids)
                        else:
                            logits = self._prefix_cache.read(ids)
                with self._prefix_cache.sampling_threads():
                    allowed = logits
                    if form is not None:
                        # Before tokens are ruled out: the numbers of all of them are shown.
                        check_logits(logits)
                        left = None if params.max_tokens is None else params.max_tokens - (len(ids) - prompt_tokens)
                        room = self._room(len(ids), left)
                        allowed, distribution, token = form.choose(logits, sampler, ids, room)
                    elif probabilities or (proposal is not None and proposal.distribution is not None):
                        distribution = sampler.distribution(logits, ids)
                        token = accept_or_resample(distribution, proposal, sampler)
                    elif token is None:
                        token = sampler.choose(logits, ids, greatest=self._prefix_cache.greatest(logits))
                origin: Origin = "model"
                if ahead is not None and len(ids) > prompt_tokens:
                    origin = ahead.took(token)
                last_at = time.perf_counter()
                first_at = first_at or last_at
                if token is None or token in self._stop_ids:
                    reason = "stop"
                    break
                ids.append(token)
                step = Step(count, token, reply.push(token), origin=origin)
                if probabilities:
                    with self._prefix_cache.sampling_threads():
                        stages = sampler.stages(allowed, ids[:-1]) if top else {}
                        if form is not None:
                            stages = {"constraint": allowed > -torch.inf, **stages}
                        step = self._explained(step, logits, distribution, stages, top)
                yield step
                count += 1
                if reply.stopped is not None:
                    reason = reply.stopped
                elif form is not None and form.ended:
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
        except NotFiniteError as error:
            raise self._prefix_cache.located(error, ids) from None
        finally:
            # A reply that nobody heard to its end may be closed when another has begun, even in the midst of a pass.
            if drawn is not None and self._prefix_cache.begun == text_begun:
                drawn.end(ids)
        met_stop = reason == "stop" and reply.stopped is None and (form is None or not form.ended)
        held_back = reply.finish()
        # The step that only met a stop token was computed too, so every interval since the first token counts.
        generated = len(ids) - prompt_tokens
        decoded = generated if met_stop else generated - 1
        stats = Stats(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            generated_tokens=generated,
            ttft_s=first_at - started if first_at else None,
            prefill_tokens_per_s=(prompt_tokens - cached) / prefill_seconds if prefill_seconds else None,
            decode_tokens_per_s=decoded / (last_at - first_at) if decoded > 0 and last_at > first_at else None,
            peak_memory_bytes=peak_memory_bytes(self._model.device),
            path=self._prefix_cache.path(),
            **({} if ahead is None else ahead.stats()),
        )
        yield Finish(reason, stats, held_back)

    def _ahead(
        self,
        prompt_tokens: int,
        sampler: Sampler,
        burst: MultiStepDecoder | None,
        *,
        constrained: bool,
    ) -> SpeculativeDecoder | None:
        """The speculative decoder of a reply; None if nothing proposes tokens, or the model has forward hooks."""
        if self._speculation is None or self._prefix_cache.has_hooks:
            return None
        return SpeculativeDecoder(
            self._prefix_cache,
            self._speculation,
            sampler,
            longest=self._longest(sampler.params, prompt_tokens),
            expected=prompt_tokens + (sampler.params.max_tokens or 0),
            stop_ids=self._stop_ids,
            constrained=constrained,
            burst=burst,
        )

    def _drawn(self, sampler: Sampler, prompt_tokens: int) -> PipelinedDecoder | None:
        """Who chooses the tokens of a reply on the device, if anybody can."""
        longest = self._longest(sampler.params, prompt_tokens)
        can = self._prefix_cache.can_pipeline(sampler.params)
        return PipelinedDecoder(self._prefix_cache, sampler, longest=longest) if can else None

    def _burst(self, sampler: Sampler, prompt_tokens: int) -> MultiStepDecoder | None:
        """Who has the fast path choose them, if that can."""
        longest = self._longest(sampler.params, prompt_tokens)
        if not self._prefix_cache.can_multi_step(sampler.params):
            return None
        return MultiStepDecoder(
            self._prefix_cache, sampler, longest=longest, ends=self._stop_ids, unseen_s=self._unseen_s
        )

    def _longest(self, params: SamplingParams, prompt_tokens: int) -> int:
        """How long a text can become that begins with so many tokens."""
        return prompt_tokens + self._room(prompt_tokens, params.max_tokens)

    def _explained(
        self, step: Step, logits: Tensor, distribution: Tensor, stages: Mapping[Filter, Tensor], top: int
    ) -> Step:
        seen = token_logprobs(logits, step.id, self._tokenizer, top=top)
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
