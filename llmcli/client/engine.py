"""An engine whose replies a running server generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llmcli.client.connection import NoServerError, ServerEndedError
from llmcli.client.reply import ServedReply, new_name
from llmcli.engine.events import Event, Prefill
from llmcli.engine.interrupt import Interruption
from llmcli.engine.sampling.params import SamplingParams
from llmcli.server.registry import ServerState, running_servers
from llmcli.server.wire import GenerateRequest
from llmcli.text.chat.prompt_request import PromptRequest
from llmcli.text.reasoning import ReplyStart

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from llmcli.engine.conversation import ConversationEngine, StreamOptions
    from llmcli.engine.prefill import PrefillProgress


class ServedEngine:
    """Generates the replies of a chat with a server, or with an engine of this process once the server is gone."""

    def __init__(
        self,
        server: ServerState,
        find: Callable[[], ServerState | None],
        load: Callable[[], ConversationEngine],
        *,
        context_length: int,
        tell: Callable[[str], None],
        advice: str,
    ) -> None:
        """A server that holds the model, and how to replace it.

        `find` finds another one once this is gone, and `load` makes an engine in this process when it is needed. `tell`
        is called with notes; `advice` is added to the error of a server that ends during a reply.
        """
        self.context_length = context_length
        self._server: ServerState | None = server
        self._find, self._load, self._tell, self._advice = find, load, tell, advice
        # The server keeps one cache for it, as an engine in this process does.
        self._session = new_name()

    @cached_property
    def _here(self) -> ConversationEngine:
        """The engine of this process."""
        return self._load()

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams | None = None, **options: Unpack[StreamOptions]
    ) -> Iterator[Event]:
        """The events of a reply to `prompt_ids`, as `Engine.stream` gives them.

        Raises:
            PromptTooLongError: the prompt leaves no room for a reply.
            LlmcliError: while the reply is generated, the server ends.
        """
        reply = self._reply(prompt_ids, params or SamplingParams(), options)
        if reply is None:
            return self._here.stream(prompt_ids, params, **options)
        return self._events(reply, options)

    def next_logits(
        self, ids: Sequence[int], *, prompt: int | None = None, progress: PrefillProgress | None = None
    ) -> Tensor:
        """The logits (V,) after `ids`, from the engine of this process, as `Engine.next_logits` gives them."""
        return self._here.next_logits(ids, prompt=prompt, progress=progress)

    def _reply(self, prompt_ids: Sequence[int], params: SamplingParams, options: StreamOptions) -> ServedReply | None:
        """The server's reply; None if there is no server any more."""
        # Another server may have the name by now, and other settings.
        if self._server is not None and self._server.url is None and self._server not in running_servers():
            name, self._server = self._server.name, self._find()
            if self._server is None:
                self._tell(f"The server {name} has ended.")
        if self._server is None:
            return None
        settings = asdict(params)
        biases = settings.pop("logit_bias")
        start = options.get("start") or ReplyStart()
        request = GenerateRequest(
            PromptRequest(),
            settings,
            tuple(f"{token}{bias:+}" for token, bias in biases),
            probabilities=options.get("probabilities", True),
            top=options.get("top", 0),
            context=self.context_length,
            ids=tuple(prompt_ids),
            state=start.state,
            begun=tuple(options.get("begun", ())),
            session=self._session,
            saved=True,
        )
        try:
            return ServedReply(self._server, request, self._tell)
        except NoServerError as error:
            self._server = None
            self._tell(str(error))
            return None

    def _events(self, reply: ServedReply, options: StreamOptions) -> Iterator[Event]:
        """The events with thoughts and their marks inside the text, as an engine gives them."""
        interruption, progress = options.get("interruption"), options.get("progress")
        with closing(reply):
            try:
                for event in reply.events(interruption or Interruption(), progress or (lambda done, total: None)):
                    yield event if isinstance(event, Prefill) else replace(event, text=reply.raw_text, thinking="")
            except ServerEndedError as error:
                raise ServerEndedError(error.what, self._advice) from None
