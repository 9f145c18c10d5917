"""An ongoing conversation: its state, and the file to which every change is written at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli import __version__
from llmcli.conversations.records import End, HeadRecord, More, Question, Record, ReplyRecord, SettingsRecord, Window
from llmcli.conversations.store import ConversationFile, ConversationKind, now, read_conversation
from llmcli.conversations.tree import Node, Tree

if TYPE_CHECKING:
    from llmcli.engine.sampling.params import SamplingParams

# Seconds between writes of a reply, the most a killed program loses: rare enough to cost nothing.
_EVERY_S = 0.5


class LiveConversation:
    """An ongoing conversation. Its file is created with the first message, so an empty conversation leaves none."""

    def __init__(
        self,
        *,
        save: bool = True,
        kind: ConversationKind = ConversationKind.CHAT,
        on_fault: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`on_fault` is called once if the conversation cannot be written; it then continues unsaved."""
        self.tree = Tree()
        self._save, self._kind, self._on_fault = save, kind, on_fault
        self._file: ConversationFile | None = None

    @classmethod
    def resume(
        cls, path: Path, *, save: bool = True, on_fault: Callable[[str], None] = lambda message: None
    ) -> tuple[LiveConversation, str | None]:
        """Open the conversation in a file to continue it; also returns a note for the user about the file.

        Raises:
            LlmcliError: the file cannot be read; or, with `save`, cannot be written or is open in another process.
        """
        live = cls(save=save, on_fault=on_fault)
        if save:
            live._file, live.tree, note = ConversationFile.resume(path)
        else:
            live.tree, note = read_conversation(path)
        return live, note

    @property
    def path(self) -> Path | None:
        """The file, or None before it is created."""
        return None if self._file is None else self._file.path

    def new_conversation(self) -> LiveConversation:
        """A new conversation with the same setting for saving."""
        return LiveConversation(save=self._save, on_fault=self._on_fault)

    def become_chat(self) -> None:
        """List the conversation among the chats from now on, if it began as a run of `llm generate`."""
        if self._file is not None:
            with suppress(OSError):  # it stays among the runs
                self._file.move_to(ConversationKind.CHAT)

    def close(self) -> None:
        """Release the file for other processes."""
        if self._file is not None:
            self._file.close()
        self._file, self._save = None, False

    def record_settings(self, settings: SettingsRecord) -> None:
        """Use `settings` for the replies that follow."""
        if settings != self.tree.settings:
            self._record(settings)

    def ask(self, text: str, *, after: int | None = None) -> Node:
        """Add the user's message after message `after`, by default the last; an unanswered question is skipped."""
        if after is None:
            pending = self.tree.unanswered()
            after = self.tree.head if pending is None else pending.after
        number = self.tree.next_number
        self._record(Question(number, after, text, now()))
        return self.tree.nodes[number]

    def adopt(self, nodes: Sequence[Node]) -> None:
        """Copy messages of another conversation to the end of this one; roles must alternate."""
        for node in nodes:
            number, after = self.tree.next_number, self.tree.head
            if not node.is_reply:
                self._record(Question(number, after, node.text, node.time), durable=False)
                continue
            begun = ReplyRecord(number, after, node.model or "", node.sampling or {}, node.time, node.prompt_tokens)
            self._record(begun, durable=False)
            self._record(More(number, node.text, node.ids), durable=False)
            self._record(End(number, node.reason or "interrupted"), durable=False)

    def answer(self, question: Node, model: str, params: SamplingParams) -> ReplyRecorder:
        """A recorder for the reply of `model` to `question`, sampled with `params`."""
        return ReplyRecorder(self, question, model, params)

    def go_to(self, number: int) -> None:
        """Continue after message `number`; 0 is the beginning."""
        if number != self.tree.head:
            self._record(HeadRecord(number))

    def leave_out(self, number: int, summary: str | None = None) -> None:
        """Drop message `number` and everything before it from the model's context, in favor of `summary`."""
        self._record(Window(number, summary))

    def _record(self, record: Record, *, durable: bool = True) -> None:
        self.tree.apply(record)
        if not self._save:
            return
        try:
            if self._file is None:
                if not isinstance(record, Question):
                    return
                self._begin()
            assert self._file is not None
            self._file.append(record, durable=durable)
        except OSError as error:
            self._on_fault(f"This conversation is not saved any more: {error.strerror or error}.")
            self.close()

    def _begin(self) -> None:
        self._file, begin = ConversationFile.create(f"llmcli {__version__}", self._kind)
        self.tree.begin = begin
        if self.tree.settings is not None:
            self._file.append(self.tree.settings)


class ReplyRecorder:
    """Writes a reply to the file while it is generated; an empty reply is not recorded."""

    def __init__(self, live: LiveConversation, question: Node, model: str, params: SamplingParams) -> None:
        self._live, self._question, self._model, self._params = live, question, model, params
        self.prompt_tokens = 0
        """The tokens of the whole prompt; 0 if they are not known."""
        self._number = 0
        self._text, self._ids = "", list[int]()
        self._written = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether the reply has any tokens or text."""
        return bool(self._number or self._ids or self._text)

    def add(self, text: str, ids: tuple[int, ...] = ()) -> None:
        """Append `text`, made of the tokens `ids`, to the reply; without `ids` if they are not exactly the text."""
        self._text += text
        self._ids += ids
        if self.has_begun and time.monotonic() - self._written >= _EVERY_S:
            self._write(durable=False)

    def end(self, reason: str) -> None:
        """End the reply, for that finish reason."""
        if self.has_begun:
            self._write(durable=False)
            self._live._record(End(self._number, reason))

    def _write(self, *, durable: bool) -> None:
        if not self._number:
            self._number = self._live.tree.next_number
            sampling = asdict(self._params)
            begun = ReplyRecord(self._number, self._question.n, self._model, sampling, now(), self.prompt_tokens)
            self._live._record(begun, durable=durable)
        if self._text or self._ids:
            self._live._record(More(self._number, self._text, tuple(self._ids)), durable=durable)
        self._text, self._ids = "", []
        self._written = time.monotonic()
