"""A loaded model: its parts, and methods to generate replies, chat, answer batches and compute logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcli.checkpoint.edits.edit_file import Edit
from llmcli.checkpoint.load_packed import Packing
from llmcli.engine import Engine, Event, SamplingParams
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.batch.batch import Batch, Request
from llmcli.engine.batch.results import BatchReply
from llmcli.engine.chat import Chat
from llmcli.engine.conversation import Conversation
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.reply.result import Reply, collect
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.engine.sampling.recommendations import recommended_params
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.speculative.draft_model import DraftModel, same_vocabulary
from llmcli.errors import LlmcliError, UsageError
from llmcli.kernels.base import FastStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.select import fast_step
from llmcli.model import ModelConfig, Transformer
from llmcli.text.chat.end_of_turn import TurnEnd, turn_end
from llmcli.text.chat.messages import Message, as_messages
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.chat.reply_prompt import ReplyPrompt
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llmcli.engine.sampling.recommendations import SamplingSettings


def warn(line: str) -> None:
    """Report `line` as a Python warning: the default for notes, which commands print instead."""
    warnings.warn(line, RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with its tokenizer and chat template."""

    name: str
    source: Path
    config: ModelConfig
    model: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """The chat template; None if the model has none."""
    declared_stop_ids: Mapping[int, tuple[str, ...]]
    """Ids that end a reply according to the model's files, each with its sources."""
    generation_defaults: Mapping[str, float]
    notes: tuple[str, ...]
    packing: Packing | None = None
    """How weights are packed: as "stored" in the file, or rounded to "int8" or "int4"; None for dense weights."""
    why_readable: str = ""
    """The reason why no kernel can run it; empty if one can."""
    edits: tuple[Edit, ...] = ()
    """Edits applied to the weights."""
    tell: Callable[[str], None] = field(default=warn, repr=False, compare=False)
    """Called with a sentence when a kernel fails and slower code replaces it; by default a Python warning."""

    @cached_property
    def turn_end(self) -> TurnEnd:
        """How the chat template ends the model's turn, read from a short conversation written with it."""
        return TurnEnd() if self.template is None else turn_end(self.tokenizer, self.template)

    @property
    def stop_ids(self) -> Mapping[int, tuple[str, ...]]:
        """Ids that end a reply, each with its sources: the model's files, and the end of a turn in the template."""
        return self.turn_end.stop_ids(self.declared_stop_ids)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of the T tokens `ids`, (T, V), from the readable model without a cache."""
        if not ids:
            raise UsageError("There are no tokens to compute logits for.")
        logits: Tensor = self.model(torch.tensor([list(ids)], device=self.model.device))
        return logits[0]

    def engine(
        self,
        *,
        context_length: int | None = None,
        threads: int | None = None,
        draft: LoadedModel | None = None,
        lookup: bool | None = False,
        draft_tokens: int | None = None,
        chat: bool = True,
    ) -> Engine:
        """Make an engine with a new KV cache.

        - `context_length`: the most tokens of prompt and reply; by default the model's limit.
        - `threads`: threads of the CPU kernel; by default one for each physical core.
        - `draft`: a smaller model with the same vocabulary, which proposes tokens that this one verifies, several in
          one pass (speculative decoding). The distribution of the reply does not change.
        - `lookup`: propose tokens that followed the same words earlier in the text. On the readable model a pass of
          several tokens sums in another order than a pass of one, which can turn the choice between two nearly equal
          tokens; None uses lookup only where results are identical.
        - `draft_tokens`: how many tokens are proposed at a time; by default tuned from measured acceptance and cost.
        - `chat`: the prompt is in the chat template. The reply also ends where the template ends a turn, and may begin
          with a thought. Otherwise only the stop tokens of the model's files end it.

        Raises:
            UsageError: there can be no context of that length, or `draft` has another vocabulary.
        """
        step = self._step(threads)
        if lookup is None:
            lookup = step.capabilities.most_each > 1
        speculation = None
        if draft is not None or lookup:
            drafter = None if draft is None else draft._drafter(self, threads)
            speculation = SpeculationState(lookup=lookup, draft=drafter, tokens=draft_tokens)
        return Engine(
            self.model,
            self.tokenizer,
            stop_ids=self.stop_ids if chat else self.declared_stop_ids,
            stop_texts=self.turn_end.texts if chat else (),
            thinks=chat and self.template is not None,
            context_length=context_length,
            step=step,
            speculation=speculation,
        )

    def stream(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        prefill: str = "",
        no_thinking: bool = False,
        probabilities: bool = False,
        top: int = 0,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Iterator[Event]:
        """Generate a reply, event by event: `Prefill`, a `Step` for each token, `Finish`.

        - `prompt`: a text, or the messages of a conversation: `Message`s or mappings such as
          `{"role": "user", "content": "Hi"}`. If the last message is the assistant's, the reply continues it.
        - `system`, `template_args`: the system prompt and further variables of the chat template.
        - `raw`: continue the text without the chat template, as a model without a template always does.
        - `prefill`: the beginning of the answer. It is not part of the events. A thought comes before it.
        - `no_thinking`: answer without a thought, where the template can say so.
        - `probabilities`: each step has its probability and entropy; `top`: and that many candidates.
        - `settings`: fields of `SamplingParams` by name, such as `temperature=0`. The others have the values that the
          model recommends, as on the command line: with the same `seed` the text is that of `llm generate`. `params`
          sets all fields at once. Stop strings end the answer, not the thought.

        Raises:
            UsageError: a setting is out of range, a message has no text, or there is no template for messages.
            PromptTooLongError: the prompt does not fit into the context.
        """
        chosen = self._params(params, settings)
        is_chat = self.template is not None and not raw
        built = self._prompt(prompt, system, template_args, raw=raw, prefill=prefill, no_thinking=no_thinking)
        events = self.engine(lookup=None, chat=is_chat).stream(
            built.ids, chosen, probabilities=probabilities or top > 0, top=top, start=built.start
        )
        return map(ThinkingApart(self.tokenizer, built.start), events) if is_chat else events

    def generate(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        prefill: str = "",
        no_thinking: bool = False,
        probabilities: bool = False,
        top: int = 0,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Reply:
        """Generate a whole reply. Arguments and errors are those of `stream`."""
        chosen = self._params(params, settings)
        events = self.stream(
            prompt, system=system, template_args=template_args, raw=raw, prefill=prefill, no_thinking=no_thinking,
            probabilities=probabilities, top=top, params=chosen,
        )  # fmt: skip
        return collect(events, seed=chosen.seed)

    def chat(
        self,
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        messages: Sequence[Message | Mapping[str, object]] = (),
        no_thinking: bool = False,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Chat:
        """Begin a conversation, or continue the one in `messages`. Settings are those of `stream`.

        Raises:
            UsageError: the model has no chat template, a setting is out of range, or the messages are not questions
                and replies in turn.
        """
        if self.template is None:
            raise UsageError(f"{self.name} has no chat template; `generate` continues text with it.")
        before = as_messages(messages)
        if [message.role for message in before] != ["user", "assistant"] * (len(before) // 2):
            raise UsageError("A chat continues from messages of the user and replies of the assistant, in turn.")
        conversation = Conversation(
            self.engine(lookup=None), self.tokenizer, self.template, system, template_args or {},
            no_thinking=no_thinking, messages=[*before],
        )  # fmt: skip
        return Chat(conversation, self._params(params, settings))

    def batch(
        self,
        prompts: Iterable[str | Sequence[Message | Mapping[str, object]]],
        *,
        system: str | None = None,
        template_args: Mapping[str, object] | None = None,
        raw: bool = False,
        no_thinking: bool = False,
        parallel: int | None = None,
        params: SamplingParams | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Iterator[BatchReply | LlmcliError]:
        """Answer many prompts: a reply, or the error of this prompt, for each in order.

        Prompts and settings are those of `stream`; `parallel` is as for `batch_engine`. Prompts are read from the
        iterable when they are needed.

        Raises:
            UsageError: a setting is out of range.
        """
        chosen = self._params(params, settings)
        is_chat = self.template is not None and not raw

        def request(prompt: str | Sequence[Message | Mapping[str, object]]) -> Request | LlmcliError:
            try:
                built = self._prompt(prompt, system, template_args, raw=raw, prefill="", no_thinking=no_thinking)
            except LlmcliError as error:
                return error
            return Request(tuple(built.ids), chosen, is_chat, built.start)

        return self.batch_engine(parallel=parallel, chat=is_chat).run(map(request, prompts))

    def _params(self, params: SamplingParams | None, settings: SamplingSettings) -> SamplingParams:
        if params is None:
            return recommended_params(self.generation_defaults, settings)
        if settings:
            raise UsageError(f"`params` has all settings; {', '.join(settings)} cannot be given too.")
        return params

    def _prompt(
        self,
        prompt: str | Sequence[Message | Mapping[str, object]],
        system: str | None,
        template_args: Mapping[str, object] | None,
        *,
        raw: bool,
        prefill: str,
        no_thinking: bool,
    ) -> ChatPrompt:
        """Encode a prompt, up to and with `prefill`."""
        template = None if raw else self.template
        asked = ReplyPrompt.make(
            self.tokenizer, template, prompt, system=system, variables=template_args, no_thinking=no_thinking
        )
        return asked.built(prefill)

    def prefix_cache(self, *, threads: int | None = None, readable: bool = False) -> PrefixCache:
        """Make a prefix cache, which reads texts and returns logits, without sampling.

        `readable` selects the readable model instead of the fastest step; `threads` is as for `engine`.
        """
        step = ReadableStep(self.model, "as asked") if readable else self._step(threads)
        return PrefixCache(
            self.model,
            context_length=self.config.context_length,
            vocab_size=self.tokenizer.vocab_size,
            step=step,
        )

    def _drafter(self, target: LoadedModel, threads: int | None) -> DraftModel:
        """Make a draft model of this one for `target`."""
        if not same_vocabulary(self.tokenizer, target.tokenizer):
            raise UsageError(
                f"{self.name} ({self.tokenizer.vocab_size} tokens) cannot draft for {target.name} "
                f"({target.tokenizer.vocab_size}): their vocabularies differ. A smaller model of the same family can."
            )
        return DraftModel(self.prefix_cache(threads=threads))

    def batch_engine(
        self,
        *,
        parallel: int | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        chat: bool = True,
    ) -> Batch:
        """Make a batch engine, which answers `parallel` prompts at a time, each bit-identical to the reply of `engine`.

        The default of `parallel` is the kernel's limit, 32 on a CPU. Without a batching kernel, prompts are answered
        one after another. `context_length`, `threads` and `chat` are as for `engine`.
        """
        rows = BatchBackend(self.model, self._step(threads), parallel)
        return Batch(
            self.model,
            self.tokenizer,
            rows,
            stop_ids=self.stop_ids if chat else self.declared_stop_ids,
            stop_texts=self.turn_end.texts if chat else (),
            context_length=context_length,
        )

    def _step(self, threads: int | None) -> FastStep:
        """The fastest step of the model."""
        return fast_step(self.model, self.why_readable, threads=threads, tell=self.tell)
