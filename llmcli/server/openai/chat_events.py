"""The events of a chat reply, with thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from llmcli.engine.events import Finish, Prefill, Step
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.server.http.streams import Channel
from llmcli.server.openai.chat_request import ChatAsked
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer


class ChatEvents:
    """Reads the events of one reply, and keeps those that the end of an answer needs."""

    def __init__(self, asked: ChatAsked, tokenizer: Tokenizer) -> None:
        form = asked.reply.constraint is not None
        self._apart = ThinkingApart(tokenizer, asked.reply.start or ReplyStart(), exact=form)
        self.prefill: Prefill | None = None
        self.steps: list[Step] = []
        self.finish: Finish | None = None

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
                split = self._apart(event)
                if isinstance(split, Step):
                    self.steps.append(split)
                elif isinstance(split, Finish):
                    self.finish = split
                assert isinstance(split, Step | Finish)
                yield split

    async def end(self, channel: Channel) -> Finish:
        """Read to the end."""
        async for _ in self.read(channel):
            pass
        assert self.finish is not None
        return self.finish

    @property
    def _parts(self) -> list[Step | Finish]:
        return [*self.steps, *([] if self.finish is None else [self.finish])]
