"""The events of a chat reply, with thoughts and calls of tools apart from the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from llmcli.engine.events import Event, Finish, Prefill, Step
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.server.http.streams import Channel
from llmcli.server.openai.chat_request import ChatAsked
from llmcli.server.openai.tools import WrittenCall
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.tool_calls.reader import ToolCallReader


class ChatEvents:
    """Reads the events of one reply, and keeps those that the end of an answer needs."""

    def __init__(self, asked: ChatAsked, tokenizer: Tokenizer) -> None:
        form = asked.reply.constraint is not None
        self._apart = ThinkingApart(tokenizer, asked.reply.start or ReplyStart(), exact=form)
        self.prefill: Prefill | None = None
        self.steps: list[Step] = []
        self.finish: Finish | None = None
        self.calls: list[WrittenCall] = []
        """The calls of tools so far."""
        self._tools, self._tokenizer = asked.tools, tokenizer
        self._reader = None if asked.tools is None else ToolCallReader(asked.tools.form, asked.tools.names)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of thoughts so far."""
        return sum(1 for step in self.steps if step.thinking)

    def text(self) -> str:
        """The answer so far."""
        return "".join(part.text for part in self._parts)

    def thinking(self) -> str:
        """The thought so far."""
        return "".join(part.thinking for part in self._parts)

    async def read(self, channel: Channel) -> AsyncIterator[Step | Finish | None]:
        """The steps and the end; None after a long silence."""
        async for event in channel.events():
            if event is None:
                yield None
            elif isinstance(event, Prefill):
                self.prefill = event
            elif isinstance(event, Step | Finish):
                yield self.taken(event)

    def taken(self, event: Step | Finish) -> Step | Finish:
        """`event` without thoughts and calls in its text; they are kept."""
        split = self._without_calls(self._apart(event))
        if isinstance(split, Step):
            self.steps.append(split)
        elif isinstance(split, Finish):
            self.finish = split
        assert isinstance(split, Step | Finish)
        return split

    async def end(self, channel: Channel) -> Finish:
        """Read to the end."""
        async for _ in self.read(channel):
            pass
        assert self.finish is not None
        return self.finish

    def _without_calls(self, event: Event) -> Event:
        """`event` without the text of calls, which are added to `calls`."""
        if self._reader is None or self._tools is None or not isinstance(event, Step | Finish):
            return event
        text = event.text
        if isinstance(event, Step) and self._tokenizer.is_silent(event.id):
            # A mark that is a control token is not part of the text.
            mark = self._tokenizer.piece(event.id)
            text += mark if mark in self._tools.form.marks else ""
        said, calls = self._reader.push(text)
        if isinstance(event, Finish):
            more, last = self._reader.finish()
            said, calls = said + more, calls + last
        for call in calls:
            if self._tools.several or not self.calls:
                self.calls.append(WrittenCall.of(call, len(self.calls), self._tools.form))
        return replace(event, text=said)

    @property
    def _parts(self) -> list[Step | Finish]:
        return [*self.steps, *([] if self.finish is None else [self.finish])]
