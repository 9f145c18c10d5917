"""The engine: takes the ids of a prompt, and yields the events of the reply until a stop rule ends it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor

from llmcli.device import peak_memory_bytes
from llmcli.engine.choose_source import SourceRequest, choose_source
from llmcli.engine.context_limit import allowed_context, check_prompt
from llmcli.engine.decoders.multi_step import MULTI_STEP_S
from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.events import Event, Finish, Prefill, Step
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.reply_builder import ReplyBuilder, StopRules
from llmcli.engine.reply_timer import ReplyTimer
from llmcli.engine.sampling.params import SamplingParams
from llmcli.engine.sampling.sampler import Sampler, sampler_for
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.step_logprobs import with_probabilities
from llmcli.errors import NotFiniteError
from llmcli.kernels.base import FastStep
from llmcli.model import Transformer
from llmcli.text.reasoning import ReplyStart
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer


class Engine:
    """Generates text with one model, and keeps its KV cache from reply to reply.

    If a prompt begins like the previous text, only the rest is read: in a chat, each turn costs its new tokens.
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
        multi_step_s: float = MULTI_STEP_S,
    ) -> None:
        """`context_length` limits prompt and reply together, in tokens; by default it is what the model was made for.

        The model ends a reply with one of the `stop_ids` or, if its end-of-turn mark is not a single token, of the
        `stop_texts`. With `thinks`, the end of each prompt tells whether the reply begins in a thought: only for
        prompts in a chat template, not for texts to continue.
        `step` makes the passes, by default the readable model, which also does while the model has forward hooks.
        With `speculation`, several tokens are verified in a pass, unless the model has forward hooks.
        A kernel that chooses tokens itself may compute for `multi_step_s` seconds before it returns them.

        Raises:
            UsageError: `context_length` is more than the model was made for.
        """
        self.context_length = allowed_context(model.config, context_length)
        self._model = model
        self._tokenizer = tokenizer
        # Rows of the head beyond the tokenizer are padding; a tokenizer never exceeds them (checked on loading).
        vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        self._rules = StopRules.of(stop_ids, stop_texts, self.context_length, vocab_size)
        self._thinks, self._speculation, self._multi_step_s = thinks, speculation, multi_step_s
        self._prefix_cache = PrefixCache(model, context_length=self.context_length, vocab_size=vocab_size, step=step)

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

        `begun` are the first tokens of a reply to continue: they are read with the prompt and come as its first steps,
        without probabilities.

        With `probabilities` every step carries its log-probability and entropy, and `top` alternatives; without, they
        are not computed. `progress` is called with how much of a long prompt has been read.

        `start`, from `build_chat`, says whether the reply begins in a thought, and which `prefill` ends `prompt_ids`;
        by default it is read from the end of the prompt, if the engine was made with `thinks`. A `constraint` and the
        stop strings apply to the answer, not to a thought (see `AnswerForm`); the texts of the events contain thoughts
        and their marks, for `ThinkingApart` to separate.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
            LlmcliError: it leaves no room for a reply that the constraint allows.
            NotFiniteError: while the reply is generated, logits are NaN or infinite.
        """
        ids = [*prompt_ids, *begun]
        check_prompt(ids, self.context_length)
        params = params or SamplingParams()
        if constraint is not None:
            room = self.context_length - len(ids)
            constraint.begin(room if params.max_tokens is None else min(room, params.max_tokens))
        if start is None and self._thinks:
            start = reply_start(self._tokenizer, prompt_ids)
        reply = ReplyBuilder(
            self._tokenizer, prompt_ids, params, self._rules, begun=begun, start=start, constraint=constraint
        )
        # Checked at the call, generated on demand.
        return self._generate(reply, begun, params, probabilities, top, interruption or Interruption(), progress)

    @property
    def path(self) -> str:
        """The name of the step that computes, for display."""
        return self._prefix_cache.path()

    def next_logits(
        self, ids: Sequence[int], *, prompt: int | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """Logits (V,) after `ids`, which are `prompt` tokens of a prompt and then a reply; by default all are prompt.

        If the engine still has the text in its cache, they are the logits that the reply was chosen from. The cache
        does not change: the next reply is the same as without this call.

        Raises:
            PromptTooLongError: the context has no room for that token.
            NotFiniteError: the logits are NaN or infinite.
        """
        check_prompt(ids, self.context_length)
        return self._prefix_cache.read_again(ids, len(ids) if prompt is None else prompt, progress)

    def _generate(
        self,
        reply: ReplyBuilder,
        begun: Sequence[int],
        params: SamplingParams,
        probabilities: bool,
        top: int,
        interruption: Interruption,
        progress: PrefillProgress | None,
    ) -> Iterator[Event]:
        timer, cache, ids = ReplyTimer(), self._prefix_cache, reply.ids
        sampler = sampler_for(params, self._tokenizer)
        cached, text = cache.begin(ids, reply.longest, again=True), cache.begun
        source = choose_source(
            SourceRequest(
                sampler, interruption, reply.longest, self._rules.ids,
                probabilities, reply.form, self._speculation, self._multi_step_s,
            ),
            cache,
        )  # fmt: skip
        try:
            source.begin(ids, progress)
            yield Prefill(reply.prompt_tokens, cached, timer.prompt_read())
            for token in begun:
                yield Step(reply.count, token, reply.push_begun(token))
            while reply.reason is None:
                if interruption.requested:
                    reply.reason = "interrupted"
                    break
                choice = source.next(ids)
                timer.token_chosen()
                index, said = reply.count, reply.push(choice.token)
                if choice.token is None or said is None:
                    break
                step = Step(index, choice.token, said, origin=choice.origin)
                yield self._explained(step, choice, sampler, ids, top) if probabilities else step
        except KeyboardInterrupt:
            if not interruption.requested:
                raise
            # It interrupted a pass; the cache still ends after the last complete one.
            reply.reason = "interrupted"
        except NotFiniteError as error:
            raise cache.located(error, ids) from None
        finally:
            # An abandoned reply may be closed when another text has begun, even in the middle of a pass.
            if cache.begun == text:
                source.end(ids)
        assert reply.reason is not None
        held_back = reply.finish()
        memory, path = peak_memory_bytes(self._model.device), cache.path()
        stats = timer.stats(reply, cached=cached, peak_memory_bytes=memory, path=path, source=source.stats())
        yield Finish(reply.reason, stats, held_back)

    def _explained(self, step: Step, choice: TokenChoice, sampler: Sampler, ids: Sequence[int], top: int) -> Step:
        """`step`, the last of `ids`, with its probabilities and those of the `top` most probable tokens."""
        with self._prefix_cache.sampling_threads():
            return with_probabilities(step, choice, sampler, ids[:-1], self._tokenizer, top=top)
