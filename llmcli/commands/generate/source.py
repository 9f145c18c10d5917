"""Where the reply of a run comes from: a model that this process has loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.commands.shared.token_report import AttentionReading
    from llmcli.engine import Engine, Event, Finish, Interruption, Step
    from llmcli.loaded_model import LoadedModel
    from llmcli.server.command_line.reply import CommandReply
    from llmcli.server.wire import GenerateRequest, ReplyBegin


class BegunSource(Protocol):
    """A prompt that a model has encoded, in this process or in a server."""

    @property
    def begin(self) -> ReplyBegin:
        """What is known before the reply begins."""

    def close(self) -> None:
        """Release what the reply needed."""


class ReplySource(BegunSource, Protocol):
    """Generates one reply; the model can be in this process or in a server."""

    @property
    def can_end(self) -> bool | None:
        """After the first event: whether a way to complete the requested form is known; None without a form."""

    @property
    def complete(self) -> bool | None:
        """After the last event: whether the reply has the requested form; None without a form."""

    @property
    def awaits_answer(self) -> bool:
        """After the last event: whether the reply ended in a thought."""

    @property
    def raw_text(self) -> str:
        """The text of the last event with thoughts and their marks, as a saved conversation keeps it."""

    @property
    def where(self) -> str:
        """What --stats says of the process that generated the reply; empty for this one."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token or candidate of the events so far."""

    def events(self, interruption: Interruption, progress: Callable[[int, int], None]) -> Iterator[Event]:
        """The events, with thoughts apart from the answer; `progress` is called with how much of a prompt is read.

        Raises:
            PromptTooLongError: at the call, the prompt leaves no room for a reply.
        """

    def attention(self, steps: Sequence[Step]) -> AttentionReading:
        """The pass that computes the attention of `steps`, all of the reply."""

    def record(self, steps: Sequence[Step], finish: Finish) -> Mapping[str, object]:
        """The record of the run, for --record."""

    def with_seed(self, seed: int) -> ReplySource:
        """The source of another reply to the same prompt."""


class LocalReply:
    """A reply of a model that this process has loaded."""

    def __init__(self, loaded: LoadedModel, engine: Engine, checkpoint: Checkpoint, request: GenerateRequest) -> None:
        """Encode the prompt.

        Raises:
            LlmcliError: the request does not suit the model.
        """
        from llmcli.server.command_line.reply import CommandReply

        self.loaded, self.engine, self.request = loaded, engine, request
        self.reply: CommandReply = CommandReply(loaded, request)
        self._checkpoint = checkpoint

    @cached_property
    def begin(self) -> ReplyBegin:
        """See `ReplySource`."""
        return self.reply.begin(context_length=self.engine.context_length, path=self.engine.path)

    @property
    def can_end(self) -> bool | None:
        """See `ReplySource`."""
        return self.reply.can_end

    @property
    def complete(self) -> bool | None:
        """See `ReplySource`."""
        return self.reply.complete

    @property
    def awaits_answer(self) -> bool:
        """See `ReplySource`."""
        return self.reply.awaits_answer

    @property
    def raw_text(self) -> str:
        """See `ReplySource`."""
        return self.reply.raw_text

    @property
    def where(self) -> str:
        """See `ReplySource`."""
        return ""

    def token_bytes(self, token: int) -> bytes:
        """See `ReplySource`."""
        return self.loaded.tokenizer.token_bytes(token)

    def events(self, interruption: Interruption, progress: Callable[[int, int], None]) -> Iterator[Event]:
        """See `ReplySource`."""
        reply = self.reply
        events = self.engine.stream(
            reply.ids,
            reply.params,
            probabilities=reply.probabilities,
            top=self.request.top,
            constraint=reply.constraint,
            start=reply.start,
            interruption=interruption,
            progress=progress,
        )
        return map(reply.split, events)

    def attention(self, steps: Sequence[Step]) -> AttentionReading:
        """See `ReplySource`."""
        from llmcli.server.command_line.after import reply_attention

        return reply_attention(self.loaded, self.reply, self.request, steps)

    def record(self, steps: Sequence[Step], finish: Finish) -> Mapping[str, object]:
        """See `ReplySource`."""
        from llmcli.server.command_line.after import run_record
        from llmcli.views.terminal.progress import progress_bar

        with progress_bar() as progress:
            return run_record(
                self.loaded,
                self._checkpoint,
                self.reply,
                self.begin,
                steps,
                finish,
                text=self.request.prompt.text,
                progress=lambda done, total: progress("Hashing the model's files", done, total),
            )

    def with_seed(self, seed: int) -> LocalReply:
        """See `ReplySource`."""
        request = replace(self.request, settings={**self.request.settings, "seed": seed})
        return LocalReply(self.loaded, self.engine, self._checkpoint, request)

    def close(self) -> None:
        """See `ReplySource`; the model stays."""
