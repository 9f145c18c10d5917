"""Where the probabilities of given answers come from: a model in this process, or a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from llmcli.commands.generate.source import BegunSource
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.client.computed import ServedChoices
    from llmcli.commands.generate.request import CheckedRequest
    from llmcli.commands.generate.source import LocalReply
    from llmcli.engine import Event
    from llmcli.inspection.evaluation.answer_choices import AnswerChoices
    from llmcli.server.registry import ServerState
    from llmcli.server.wire import GenerateRequest, ReplyBegin


class ThinkingReply(Protocol):
    """A reply that is generated up to its answer."""

    @property
    def awaits_answer(self) -> bool:
        """Whether a thought must end before the answer can begin, as far as this is known."""

    def events(self) -> Iterator[Event]:
        """The events of the reply, with thoughts apart from the answer."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token of the reply."""

    def close(self) -> None:
        """End the reply."""


class ChoiceSource(BegunSource, Protocol):
    """Compares the answers of a request."""

    @property
    def may_think(self) -> bool:
        """Whether the model may think before its answer."""

    def thinking(self) -> ThinkingReply:
        """A reply to the prompt, for the thought in it."""

    def compare(self, thought: tuple[int, ...], progress: Callable[[int, int], None]) -> AnswerChoices:
        """The probability of each answer after the prompt and the tokens of a thought.

        Raises:
            LlmcliError: the answers do not suit the model.
        """


class LocalChoices:
    """The answers compared by a model that this process has loaded."""

    def __init__(self, reply: LocalReply, request: CheckedRequest) -> None:
        self._reply, self._request = reply, request

    @property
    def begin(self) -> ReplyBegin:
        """See `BegunSource`."""
        return self._reply.begin

    @property
    def may_think(self) -> bool:
        """See `ChoiceSource`."""
        from llmcli.server.command_line.choices import may_think

        no_thinking = self._request.options.prompt.no_thinking
        return may_think(self._reply.loaded, self._reply.reply, no_thinking=no_thinking)

    def thinking(self) -> ThinkingReply:
        """See `ChoiceSource`."""
        return _LocalThinking(self._reply)

    def compare(self, thought: tuple[int, ...], progress: Callable[[int, int], None]) -> AnswerChoices:
        """See `ChoiceSource`."""
        from llmcli.server.command_line.choices import compare_answers

        options = self._request.options
        return compare_answers(
            self._reply.loaded,
            self._reply.reply,
            self._request.answers,
            thought,
            context_length=options.model.context,
            threads=options.model.threads,
            readable=options.choice.readable,
            progress=progress,
        )

    def close(self) -> None:
        """See `BegunSource`."""


class _LocalThinking:
    def __init__(self, reply: LocalReply) -> None:
        self._reply = reply

    @property
    def awaits_answer(self) -> bool:
        return self._reply.reply.awaits_answer

    def events(self) -> Iterator[Event]:
        reply = self._reply.reply
        params = replace(reply.params, stop=())
        events = self._reply.engine.stream(reply.ids, params, probabilities=False, start=reply.start)
        return map(reply.split, events)

    def token_bytes(self, token: int) -> bytes:
        return self._reply.token_bytes(token)

    def close(self) -> None:
        pass


class ServedSource:
    """The answers compared by a running server."""

    def __init__(self, server: ServerState, asked: GenerateRequest, request: CheckedRequest) -> None:
        """Ask the server whether the model thinks, and compare the answers if it does not.

        Raises:
            NoServerError: the server does not answer, or takes no more requests.
            LlmcliError: the request does not suit the model.
        """
        self._server, self._asked, self._request = server, asked, request
        self._first = self._choices(None)

    @property
    def begin(self) -> ReplyBegin:
        """See `BegunSource`."""
        return self._first.begin

    @property
    def may_think(self) -> bool:
        """See `ChoiceSource`."""
        return self._first.may_think

    def thinking(self) -> ThinkingReply:
        """See `ChoiceSource`."""
        return _ServedThinking(self._server, self._asked, self.begin)

    def compare(self, thought: tuple[int, ...], progress: Callable[[int, int], None]) -> AnswerChoices:
        """See `ChoiceSource`."""
        if not self.may_think:
            return self._first.result(progress)
        with_thought = self._choices(thought)
        try:
            return with_thought.result(progress)
        finally:
            with_thought.close()

    def close(self) -> None:
        """See `BegunSource`."""
        self._first.close()

    def _choices(self, thought: tuple[int, ...] | None) -> ServedChoices:
        from llmcli.client.computed import ServedChoices

        readable = self._request.options.choice.readable
        return ServedChoices(
            self._server, self._asked, self._request.answers, thought, readable=readable, tell=terminal.note
        )


class _ServedThinking:
    def __init__(self, server: ServerState, asked: GenerateRequest, begin: ReplyBegin) -> None:
        from llmcli.client.reply import ServedReply

        settings = {**asked.settings, "seed": begin.params["seed"], "stop": ()}
        request = replace(asked, settings=settings, probabilities=False, top=0, show_prompt=False)
        self._reply = ServedReply(server, request, terminal.note)

    @property
    def awaits_answer(self) -> bool:
        return self._reply.awaits_answer

    def events(self) -> Iterator[Event]:
        from llmcli.engine import Interruption

        return self._reply.events(Interruption(), lambda done, total: None)

    def token_bytes(self, token: int) -> bytes:
        return self._reply.token_bytes(token)

    def close(self) -> None:
        self._reply.close()
