"""`Chat`, the conversation of the Python API: each reply is generated with the whole conversation as its prompt."""

from __future__ import annotations

from collections.abc import Iterator

from llmcli.engine.conversation import Conversation
from llmcli.engine.events import Event
from llmcli.engine.reply.result import Reply, collect
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.engine.sampling.params import SamplingParams
from llmcli.text.chat.messages import Message


class Chat:
    """Messages and replies in turn; made by `LoadedModel.chat`.

    The KV cache is kept between replies, so that only the new message is read. The model's template decides whether
    earlier thoughts stay in the prompt. One reply at a time.
    """

    def __init__(self, conversation: Conversation, params: SamplingParams) -> None:
        """Continue `conversation`, with the sampling settings `params` for every reply."""
        self._conversation, self._params = conversation, params

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages so far, without the system prompt."""
        return tuple(self._conversation.messages)

    def send(self, text: str, *, probabilities: bool = False, top: int = 0) -> Reply:
        """Send `text`, and return the whole reply; `probabilities` and `top` are as for `LoadedModel.stream`.

        Raises:
            PromptTooLongError: the conversation does not fit into the context; it stays as it was.
        """
        seed = self._conversation.own_params(self._params).seed
        return collect(self.stream(text, probabilities=probabilities, top=top), seed=seed)

    def stream(self, text: str, *, probabilities: bool = False, top: int = 0) -> Iterator[Event]:
        """Send `text`, and return the events of the reply as they happen.

        Message and reply are added to the conversation when the reply ends or the iterator is closed.

        Raises:
            PromptTooLongError: the conversation does not fit into the context; it stays as it was.
        """
        conversation = self._conversation
        events = conversation.ask(text, self._params, probabilities=probabilities, top=top)
        return _thinking_apart(events, ThinkingApart(conversation.tokenizer, conversation.start))

    def take_back(self) -> str:
        """Remove the last message and its reply; return the message.

        Raises:
            UsageError: nothing has been said yet.
        """
        return self._conversation.take_back()


def _thinking_apart(events: Iterator[Event], apart: ThinkingApart) -> Iterator[Event]:
    for event in events:
        yield apart(event)
