"""An engine whose replies a running server generates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count
from typing import TYPE_CHECKING

from llmcli.client.connection import NoServerError
from llmcli.client.reply import ServedReply
from llmcli.engine.events import Event, Prefill
from llmcli.engine.interrupt import Interruption
from llmcli.engine.sampling.params import SamplingParams
from llmcli.server.registry import ServerState
from llmcli.server.wire import GenerateRequest
from llmcli.text.chat.prompt_request import PromptRequest
from llmcli.text.reasoning import ReplyStart

if TYPE_CHECKING:
    from torch import Tensor

    from llmcli.engine.conversation import ConversationEngine
    from llmcli.engine.prefill import PrefillProgress

_numbers = count(1)


class ServedEngine:
    """Generates replies with a server, or with the engine of this process once the server is gone."""

    def __init__(
        self,
        server: ServerState,
        context_length: int,
        load: Callable[[], ConversationEngine],
        tell: Callable[[str], None],
    ) -> None:
        """`load` makes an engine in this process, when it is needed; `tell` is called with notes."""
        self.context_length = context_length
        self._server: ServerState | None = server
        self._load, self._tell = load, tell
        # The server keeps one cache for it, as an engine in this process does.
        self._session = f"{os.getpid()}-{next(_numbers)}"

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        begun: Sequence[int] = (),
        probabilities: bool = True,
        top: int = 0,
        start: ReplyStart | None = None,
        interruption: Interruption | None = None,
        progress: PrefillProgress | None = None,
    ) -> Iterator[Event]:
        """The events of a reply to `prompt_ids`, as `Engine.stream` gives them.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
            LlmcliError: while the reply is generated, the server ends.
        """
        interruption = interruption or Interruption()
        reply = self._reply(prompt_ids, params or SamplingParams(), begun, start or ReplyStart(), probabilities, top)
        if reply is not None:
            return _raw(reply, interruption, progress or (lambda done, total: None))
        return self._load().stream(
            prompt_ids, params, begun=begun, probabilities=probabilities, top=top, start=start,
            interruption=interruption, progress=progress,
        )  # fmt: skip

    def next_logits(
        self, ids: Sequence[int], *, prompt: int | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """The logits (V,) after `ids`, from the engine of this process, as `Engine.next_logits` gives them."""
        return self._load().next_logits(ids, prompt=prompt, progress=progress)

    def _reply(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        begun: Sequence[int],
        start: ReplyStart,
        probabilities: bool,
        top: int,
    ) -> ServedReply | None:
        """The server's reply; None if the server is gone."""
        if self._server is None:
            return None
        settings = asdict(params)
        biases = settings.pop("logit_bias")
        request = GenerateRequest(
            PromptRequest(),
            settings,
            tuple(f"{token}{bias:+}" for token, bias in biases),
            probabilities=probabilities,
            top=top,
            context=self.context_length,
            ids=tuple(prompt_ids),
            state=start.state,
            begun=tuple(begun),
            session=self._session,
            saved=True,
        )
        try:
            return ServedReply(self._server, request, self._tell)
        except NoServerError as error:
            self._server = None
            self._tell(f"{error} The model is loaded in this process.")
            return None


def _raw(reply: ServedReply, interruption: Interruption, progress: Callable[[int, int], None]) -> Iterator[Event]:
    """The events with thoughts and their marks inside the text, as an engine gives them."""
    with closing(reply):
        for event in reply.events(interruption, progress):
            yield event if isinstance(event, Prefill) else replace(event, text=reply.raw_text, thinking="")
