"""A reply that a server generates, event by event as an engine in this process would."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from llmcli.client.connection import ServerAnswer, ServerEndedError, error_of, request_json, server_ended
from llmcli.engine.events import AttentionRow, Event, Finish, Prefill, Stats, Step
from llmcli.engine.interrupt import Interruption
from llmcli.errors import LlmcliError
from llmcli.server.registry import ServerState
from llmcli.server.wire import (
    GenerateRequest,
    ReadProgress,
    ReplyBegin,
    ReplyFailure,
    ReplyLine,
    ReplyNote,
    ReplyReader,
    StepAttention,
    request_line,
)

_CANCEL_S = 5.0


def new_name() -> str:
    """A name for a reply or a chat that no other client of the server has, or can guess."""
    return os.urandom(12).hex()


class ServedReply:
    """The reply of a server to one request."""

    def __init__(self, server: ServerState, request: GenerateRequest, tell: Callable[[str], None]) -> None:
        """Send the request, and wait until the prompt is encoded; `tell` is called with notes.

        Raises:
            NoServerError: the server does not answer, or takes no more requests.
            LlmcliError: the request does not suit the model.
        """
        self._server, self._tell = server, tell
        self._request = replace(request, id=new_name())
        self._reader = ReplyReader()
        self._answer = ServerAnswer(server, "/internal/generate", request_line(self._request))
        try:
            self._begin = self._until_begin()
        except BaseException:
            self._answer.close()
            raise

    @property
    def begin(self) -> ReplyBegin:
        """What the server knew before the reply began."""
        return self._begin

    @property
    def can_end(self) -> bool | None:
        """After the first event: whether a way to complete the requested form is known; None without a form."""
        return self._reader.can_end

    @property
    def complete(self) -> bool | None:
        """After the last event: whether the reply has the requested form; None without a form."""
        return self._reader.complete

    @property
    def awaits_answer(self) -> bool:
        """After the last event: whether the reply ended in a thought."""
        return self._reader.awaits_answer

    @property
    def raw_text(self) -> str:
        """The text of the last event with thoughts and their marks."""
        return self._reader.raw_text

    @property
    def where(self) -> str:
        """What --stats says of where the reply was generated."""
        return f"warm, pid {self._server.pid}"

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token or candidate of the events so far."""
        return self._reader.token_bytes(token)

    def events(self, interruption: Interruption, progress: Callable[[int, int], None]) -> Iterator[Event]:
        """The events of the reply. `progress` is called with how much of a long prompt has been read.

        A request of `interruption` ends the reply: the events that the server has sent by then, and its last event,
        follow.

        Raises:
            LlmcliError: the reply failed, or the server ended.
        """
        prefill: Prefill | None = None
        steps = 0
        waiting: Interruption | None = interruption
        while True:
            try:
                value = self._next(waiting)
            except KeyboardInterrupt:
                if waiting is not None and interruption.requested and self._cancel():
                    waiting = None
                    continue
                # A second Ctrl-C: do not wait for the server.
                self.close()
                yield self._cut_short(prefill, steps)
                return
            if value is None:
                raise self._ended()
            if isinstance(value, ReadProgress):
                progress(value.done, value.total)
            elif isinstance(value, Prefill | Step):
                prefill = value if isinstance(value, Prefill) else prefill
                steps += isinstance(value, Step)
                yield value
            elif isinstance(value, Finish):
                if self._request.attention_by is None and not self._request.record:
                    self.close()
                yield value
                return

    def attention(self, _steps: Sequence[Step]) -> ServedAttention:
        """The attention of the reply, which the server computes after it."""
        return ServedAttention(self)

    def record(self, _steps: Sequence[Step], _finish: Finish) -> Mapping[str, object]:
        """The record of the run."""
        while self._reader.record is None:
            if self.after() is None and self._reader.ended:
                raise self._ended()
        self.close()
        return self._reader.record

    def with_seed(self, seed: int) -> ServedReply:
        """Another reply to the same prompt."""
        request = replace(self._request, settings={**self._request.settings, "seed": seed})
        return ServedReply(self._server, request, self._tell)

    def after(self) -> ReplyLine | None:
        """The next line after the last event; None for a record, and at the end.

        Raises:
            LlmcliError: the server ended before the last line.
        """
        value = self._next(None)
        if value is None and self._reader.record is None and not self._reader.ended:
            raise self._ended()
        if self._reader.ended:
            self.close()
        return value

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()

    def abort(self) -> None:
        """End the reply while another thread reads its events, which fails there."""
        self._answer.abort()

    def _until_begin(self) -> ReplyBegin:
        while True:
            value = self._next(None)
            if value is None:
                raise self._ended()
            if isinstance(value, ReplyBegin):
                return value

    def _next(self, interruption: Interruption | None) -> ReplyLine | None:
        """The next line after notes, for which `tell` is called; None for a record, and at the end."""
        while True:
            line = self._answer.line(interruption)
            if line is None:
                self.close()
                return None
            try:
                value = self._reader.read(line)
            except (ValueError, KeyError, TypeError):
                # Cut off in the middle of a line.
                self.close()
                raise self._ended() from None
            if isinstance(value, ReplyFailure):
                self.close()
                raise error_of(value.message, value.exit_code)
            if not isinstance(value, ReplyNote):
                return value
            self._tell(value.text)

    def _cancel(self) -> bool:
        """Ask the server to end the reply; False if Ctrl-C comes again meanwhile."""
        try:
            request_json(self._server, "/internal/cancel", {"id": self._request.id}, timeout_s=_CANCEL_S)
        except LlmcliError:
            # The server is gone, which reading its answer will tell.
            return True
        except KeyboardInterrupt:
            return False
        return True

    def _cut_short(self, prefill: Prefill | None, steps: int) -> Finish:
        cached = 0 if prefill is None else prefill.cached
        stats = Stats(len(self._begin.prompt_ids), cached, steps, None, None, None, 0, self._begin.path)
        return Finish("interrupted", stats)

    def _ended(self) -> ServerEndedError:
        return server_ended(self._server, "the reply")


class ServedAttention:
    """The attention of a reply as the server sends it."""

    def __init__(self, reply: ServedReply) -> None:
        self._reply = reply
        self.rows: list[AttentionRow] = []
        self.logprobs: list[float] = []

    def read(self, progress: Callable[[int, int], None]) -> None:
        """Read all rows; those read so far remain if it is interrupted.

        Raises:
            OutOfMemoryError: the server has not enough memory for the pass.
        """
        try:
            while (value := self._reply.after()) is not None:
                if isinstance(value, ReadProgress):
                    progress(value.done, value.total)
                elif isinstance(value, StepAttention):
                    self.rows.append(value.row)
                    if value.logprob is not None:
                        self.logprobs.append(value.logprob)
        except KeyboardInterrupt:
            self._reply.close()
            raise
