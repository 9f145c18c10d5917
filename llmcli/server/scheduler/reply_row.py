"""One reply in the scheduler: its text, and the choice of its tokens. V is the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from llmcli.device import one_thread, peak_memory_bytes
from llmcli.engine.batch.row_steps import RowText
from llmcli.engine.context_limit import check_prompt, memory_for_text
from llmcli.engine.decoders.single_step import choose_token
from llmcli.engine.events import Event, Finish, FinishReason, Prefill, Step
from llmcli.engine.logprobs import TokenLogprobs, token_logprobs
from llmcli.engine.prefill import LAST_CHUNK
from llmcli.engine.reply_builder import ReplyBuilder, StopRules
from llmcli.engine.reply_timer import ReplyTimer
from llmcli.engine.sampling.sampler import check_chosen, sampler_for
from llmcli.engine.step_logprobs import with_probabilities
from llmcli.kernels.base import FastStep
from llmcli.loaded_model import LoadedModel
from llmcli.model.finite import check_logits
from llmcli.server.scheduler.kept_caches import CachedText, KeptCaches
from llmcli.server.scheduler.work import PromptLogprobs, ReadSoFar, ReplyWork
from llmcli.text.reply_start import reply_start


class ReplyRow:
    """Reads the prompt of one reply, and then takes logits until a stop rule ends it."""

    def __init__(self, work: ReplyWork, loaded: LoadedModel, rules: StopRules, kept: KeptCaches) -> None:
        """`rules` are those of the request.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
        """
        request, tokenizer = work.request, loaded.tokenizer
        self._prompt = (*request.ids, *request.begun)
        check_prompt(self._prompt, rules.context_length)
        self.work, self._loaded, self._kept = work, loaded, kept
        self.stop_ids = rules.ids
        """Tokens that end the reply."""
        self._vocab_size = min(tokenizer.vocab_size, loaded.config.vocab_size)
        start = request.start if request.is_chat else None
        if start is None and request.is_chat:
            start = reply_start(tokenizer, request.ids)
        self.builder = ReplyBuilder(
            tokenizer,
            request.ids,
            request.params,
            rules,
            begun=request.begun,
            start=start,
            constraint=request.constraint,
        )
        self.sampler = sampler_for(request.params, tokenizer)
        self._timer = ReplyTimer()
        self.text: CachedText | None = None
        self._cached = 0

    @property
    def ids(self) -> list[int]:
        """Prompt and reply."""
        return self.builder.ids

    def row_text(self) -> RowText:
        """What a pass needs to know of it."""
        assert self.text is not None
        wants_logits = self.work.request.probabilities or self.builder.form is not None
        return RowText(self.ids, self.text.cache, self.sampler, self.builder.longest, self.stop_ids, wants_logits)

    def read(self, step: FastStep) -> Iterator[Tensor | None]:
        """Read the prompt chunk by chunk: None after each but the last, whose logits (V,) come at the end."""
        ids, top = self._prompt, self.work.request.prompt_top
        # Where the log-probabilities of all its tokens are wanted, all of it is read.
        self.text, self._cached = self._kept.take(ids if top is None else (), self.builder.longest)
        cache = self.text.cache
        scores: list[TokenLogprobs | None] = [None]
        with memory_for_text(self._loaded.model, len(ids)):
            cache.reserve(len(ids))
            last = LAST_CHUNK if cache.needs_marks else 0
            for piece in pieces(len(ids), self._cached, step.prefill_chunk, last):
                logits = step.forward(ids[piece.start : piece.stop], cache, only_last=top is None)
                # For texts of models with states, which can only go back to marks.
                cache.mark()
                if top is not None:
                    # Operations on one row are short: waking torch's other threads would take longer.
                    with one_thread():
                        scores += self._scored(check_logits(logits), piece, top)
                self.text.ids = list(ids[: cache.length])
                if cache.length < len(ids):
                    self.work.deliver([ReadSoFar(cache.length, len(ids))])
                    yield None
        begun = [Step(self.builder.count, token, self.builder.push_begun(token)) for token in self.work.request.begun]
        prompt = [] if top is None else [PromptLogprobs(tuple(scores))]
        self.work.deliver([*prompt, Prefill(len(ids), self._cached, self._timer.prompt_read()), *begun])
        yield logits[-1]

    def _scored(self, logits: Tensor, piece: range, top: int) -> Iterator[TokenLogprobs]:
        """The values of the tokens that follow those of a piece, from their logits (T, V)."""
        tokenizer = self._loaded.tokenizer
        for row, position in zip(logits[:, : self._vocab_size], piece, strict=True):
            if position + 1 < len(self._prompt):
                yield token_logprobs(row, self._prompt[position + 1], tokenizer, top=top)

    def take(self, logits: Tensor, greatest: tuple[int, float] | None = None) -> list[Event]:
        """Choose the next token from logits (V,).

        Raises:
            NotFiniteError: they are NaN or infinite.
            LlmcliError: the requested form allows no token.
        """
        builder, request = self.builder, self.work.request
        choice = choose_token(
            logits,
            builder.ids,
            self.sampler,
            room=builder.longest - len(builder.ids),
            form=builder.form,
            probabilities=request.probabilities,
            greatest=greatest,
        )
        self._timer.token_chosen()
        index, said = builder.count, builder.push(choice.token)
        if choice.token is None or said is None:
            return []
        step = Step(index, choice.token, said)
        if request.probabilities:
            step = with_probabilities(
                step, choice, self.sampler, builder.ids[:-1], self._loaded.tokenizer, top=request.top
            )
        return [step]

    def take_tokens(self, tokens: Sequence[int]) -> list[Event]:
        """Append tokens that a kernel has chosen, up to one that ends the reply.

        Raises:
            NotFiniteError: the last is -1, which stands for logits that are not finite.
        """
        self._timer.token_chosen()
        events: list[Event] = []
        for token in tokens:
            index, said = self.builder.count, self.builder.push(check_chosen(token))
            if said is not None:
                events.append(Step(index, token, said))
            if self.builder.reason is not None:
                break
        return events

    def finish(self, path: str, reason: FinishReason | None = None) -> Finish:
        """The last event; `reason` says why the reply ends if no stop rule has ended it."""
        builder = self.builder
        held_back = builder.finish()
        stats = self._timer.stats(
            builder,
            cached=self._cached,
            peak_memory_bytes=peak_memory_bytes(self._loaded.model.device),
            path=path,
            source={},
        )
        return Finish(reason or builder.reason or "interrupted", stats, held_back)

    def release(self) -> None:
        """Give the cache back, for the next prompt that begins like this one."""
        if self.text is not None:
            self._kept.give_back(self.text)
            self.text = None


def pieces(length: int, held: int, chunk: int, last: int = 0) -> Iterator[range]:
    """The passes that read the rest of a prompt of `length` tokens of which `held` are in the cache.

    They end at multiples of `chunk`, as those of a prompt of which nothing is held. The `last` tokens are one pass.
    """
    while held < length:
        end = min((held // chunk + 1) * chunk, length - last) if held < length - last else length
        yield range(held, end)
        held = end
