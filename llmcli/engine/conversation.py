"""A conversation in memory: its messages, and the prompt and events of the next reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypedDict

from llmcli.engine.events import Event, Finish, Step
from llmcli.engine.interrupt import Interruption
from llmcli.engine.sampling.params import SamplingParams
from llmcli.errors import UsageError
from llmcli.text.chat.prompt import ChatPrompt, Message, build_chat
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from llmcli.engine.prefill import PrefillProgress


class StreamOptions(TypedDict, total=False):
    """The further arguments of `Engine.stream` that a conversation uses."""

    begun: Sequence[int]
    probabilities: bool
    top: int
    start: ReplyStart | None
    interruption: Interruption | None
    progress: PrefillProgress | None


class ConversationEngine(Protocol):
    """What a conversation needs of an engine, with the meaning that the methods of `Engine` have."""

    context_length: int

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams | None = None, **options: Unpack[StreamOptions]
    ) -> Iterator[Event]:
        """Generate a reply."""

    def next_logits(
        self, ids: Sequence[int], *, prompt: int | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """The logits (V,) after a text."""


@dataclass
class Conversation:
    """Messages so far, and the engine whose KV cache holds them."""

    engine: ConversationEngine
    tokenizer: Tokenizer
    template: ChatTemplate
    system: str | None = None
    template_args: Mapping[str, object] = field(default_factory=dict)
    """Further variables of the template."""
    strict_system: bool = False
    """Whether a system prompt that the template does not write is an error."""
    no_thinking: bool = False
    """Whether to ask for an answer without a thought, by the means that `build_chat` has."""
    messages: list[Message] = field(default_factory=list)
    """The user's messages and the model's replies, in turn."""
    asked: tuple[int, ...] = ()
    """The ids of the last prompt, whether or not a reply followed."""
    start: ReplyStart = field(default_factory=ReplyStart)
    """Where the reply to that prompt begins: in a thought, before one or in the answer."""
    last_prompt: tuple[int, ...] = ()
    """The ids of the prompt of the last reply."""
    last_reply: tuple[int, ...] = ()
    """The ids of the last reply, empty before there is one."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the template wrote the last prompt."""
    replies: int = 0
    """Replies generated so far, retries included: added to the seed, so that each reply has another."""

    def ask(
        self,
        text: str,
        params: SamplingParams,
        *,
        begun: Sequence[int] = (),
        probabilities: bool = False,
        top: int = 0,
        interruption: Interruption | None = None,
        progress: PrefillProgress | None = None,
    ) -> Iterator[Event]:
        """The events of the reply to `text`; `begun` are its first tokens, if it continues an earlier reply.

        Message and reply are added to the conversation when the reply ends.

        Raises:
            PromptTooLongError: the prompt does not fit; raised at the call, and the conversation does not change.
        """
        built = self._built(text)
        ids, self.start = built.ids, built.start
        self.asked = tuple(ids)
        events = self.engine.stream(
            ids,
            self.own_params(params),
            begun=begun,
            probabilities=probabilities,
            top=top,
            start=self.start,
            interruption=interruption,
            progress=progress,
        )
        return self._recorded(Message("user", text), ids, events)

    def with_question(self, text: str) -> list[Message]:
        """The messages of the prompt for `text`: system prompt, conversation so far, and `text`."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages, Message("user", text)]

    def prompt(self, text: str) -> list[int]:
        """The ids of the prompt for `text`."""
        return self._built(text).ids

    def _built(self, text: str) -> ChatPrompt:
        built = build_chat(
            self.tokenizer,
            self.template,
            self.with_question(text),
            template_args=self.template_args,
            strict_system=self.strict_system,
            no_thinking=self.no_thinking,
        )
        self.notes = built.notes
        return built

    def own_params(self, params: SamplingParams) -> SamplingParams:
        """`params` with the seed of the next reply."""
        return replace(params, seed=None if params.seed is None else params.seed + self.replies)

    def take_back(self) -> str:
        """Remove the last message and its reply; return the message.

        Raises:
            UsageError: nothing has been said yet.
        """
        if not self.messages:
            raise UsageError("Nothing has been said yet.")
        question = self.messages[-2]
        del self.messages[-2:]
        return question.content

    def _recorded(self, question: Message, prompt: list[int], events: Iterator[Event]) -> Iterator[Event]:
        self.replies += 1
        text, ids, cut = "", [], False
        try:
            for event in events:
                if isinstance(event, Step):
                    text += event.text
                    ids.append(event.id)
                elif isinstance(event, Finish):
                    text += event.text
                    cut = event.reason == "stop_string"
                yield event
        finally:
            # Also if the caller stopped reading the events: an unfinished reply is kept. A message without any reply is
            # not: two user messages in a row would confuse the model.
            if ids:
                self.last_prompt, self.last_reply = tuple(prompt), tuple(ids)
                # The ids of a reply cut at a stop string include text after the cut.
                self.messages += [question, Message("assistant", text, None if cut else tuple(ids), is_reply=True)]
