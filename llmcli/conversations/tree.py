"""The state of a conversation: all messages as a tree, and the message after which it continues.

Undoing, retrying and branching move that position; the messages that were there before remain as another branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.conversations.records import (
    Begin,
    End,
    HeadRecord,
    More,
    Question,
    Record,
    ReplyRecord,
    SettingsRecord,
    Window,
)
from llmcli.errors import LlmcliError
from llmcli.text.chat.attached_files import without_files
from llmcli.text.chat.prompt import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

SUMMARY_REQUEST = (
    "Summarise our conversation so far in a few sentences. Keep every name, number and fact that may matter later."
)
"""The request for a summary that replaces the beginning of a conversation."""


@dataclass
class Node:
    """One message: the user's, or the model's as far as it has been generated."""

    n: int
    after: int
    """The number of the message before it; 0 is the beginning."""
    time: str
    text: str = ""
    model: str | None = None
    """The model that wrote it; None is the user."""
    ids: tuple[int, ...] = ()
    sampling: Mapping[str, object] | None = None
    prompt_tokens: int = 0
    """The tokens of the whole prompt of a reply; 0 if they are not known."""
    reason: str | None = None
    """The finish reason of a reply; None if the program ended first."""

    @property
    def is_reply(self) -> bool:
        """Whether the model wrote it."""
        return self.model is not None

    @property
    def is_cut(self) -> bool:
        """Whether a reply was cut off before the model ended it."""
        return self.is_reply and self.reason in (None, "interrupted")


class Tree:
    """The messages and settings that result from the records of a conversation."""

    def __init__(self) -> None:
        self.begin: Begin | None = None
        self.settings: SettingsRecord | None = None
        self.nodes: dict[int, Node] = {}
        self.head = 0
        """The message after which the conversation continues; 0 is the beginning."""
        self.window: Window | None = None

    @property
    def next_number(self) -> int:
        """The number of the next message."""
        return max(self.nodes, default=0) + 1

    @property
    def replies(self) -> int:
        """The number of replies, including those on other branches."""
        return sum(node.is_reply for node in self.nodes.values())

    def apply(self, record: Record) -> None:
        """Update the state by `record`.

        Raises:
            LlmcliError: it does not fit the records before it.
        """
        if isinstance(record, Begin):
            self.begin = record
        elif isinstance(record, SettingsRecord):
            self.settings = record
        elif isinstance(record, Question):
            self._add(Node(record.n, record.after, record.time, text=record.text))
        elif isinstance(record, ReplyRecord):
            node = Node(record.n, record.after, record.time, model=record.model, sampling=record.sampling)
            node.prompt_tokens = record.prompt_tokens
            self._add(node)
        elif isinstance(record, More):
            node = self._reply(record.n)
            node.text += record.text
            node.ids += record.ids
        elif isinstance(record, End):
            self._reply(record.n).reason = record.reason
        else:
            if record.n and record.n not in self.nodes:
                raise LlmcliError(f"There is no message {record.n} in the conversation.")
            if isinstance(record, HeadRecord):
                self.head = record.n
            else:
                self.window = record

    def path(self, to: int | None = None) -> list[Node]:
        """The messages from the beginning to message `to`, by default the current one."""
        nodes = []
        at = self.head if to is None else to
        while at:
            nodes.append(self.nodes[at])
            at = self.nodes[at].after
        return nodes[::-1]

    def read(self, to: int | None = None) -> list[Node]:
        """The part of `path` in the model's context: after the window's start, without an unanswered question."""
        path = self._answered(to)
        return path[self._window_start(path) :]

    def left_out(self, to: int | None = None) -> list[Node]:
        """The part of `path` before the model's context."""
        path = self._answered(to)
        return path[: self._window_start(path)]

    def messages(self, to: int | None = None, *, model: str, vocab_size: int) -> list[Message]:
        """The chat messages of the model's context up to message `to`, by default the current one.

        A reply keeps its token ids only if it came from the same `model` with `vocab_size` tokens.
        """
        summary = self.window.summary if self.window is not None and self.left_out(to) else None
        before = [] if summary is None else [Message("user", SUMMARY_REQUEST), Message("assistant", summary)]
        return before + [_message(node, model, vocab_size) for node in self.read(to)]

    def unanswered(self) -> Node | None:
        """The user's last message, if it has no reply."""
        node = self.nodes.get(self.head)
        return node if node is not None and not node.is_reply else None

    def last_reply(self) -> Node | None:
        """The model's last message, if there is one."""
        path = self.read()
        return path[-1] if path else None

    def replies_to(self, question: int) -> list[Node]:
        """The replies to message `question`, in the order they were generated."""
        return [node for node in self.nodes.values() if node.after == question and node.is_reply]

    def leaves(self) -> list[Node]:
        """The last message of each branch."""
        inner = {node.after for node in self.nodes.values()}
        return [node for node in self.nodes.values() if node.n not in inner]

    def title(self) -> str:
        """What the user wrote first, without the files sent along; empty if there is nothing."""
        path = self.path() or list(self.nodes.values())
        return without_files(path[0].text) if path else ""

    def _answered(self, to: int | None) -> list[Node]:
        path = self.path(to)
        return path[:-1] if path and not path[-1].is_reply else path

    def _window_start(self, path: list[Node]) -> int:
        if self.window is None:
            return 0
        return next((place + 1 for place, node in enumerate(path) if node.n == self.window.n), 0)

    def _add(self, node: Node) -> None:
        # Questions and replies alternate, so that a model can read every path.
        before = self.nodes.get(node.after)
        follows = not before.is_reply if before is not None and node.is_reply else before is None or before.is_reply
        if node.n in self.nodes or node.n <= node.after or (node.after and before is None):
            raise LlmcliError(f"Message {node.n} of the conversation does not follow an existing message.")
        if not follows or (node.is_reply and not node.after):
            raise LlmcliError(f"Message {node.n} of the conversation does not alternate with the one before it.")
        self.nodes[node.n] = node
        self.head = node.n

    def _reply(self, n: int) -> Node:
        node = self.nodes.get(n)
        if node is None or not node.is_reply:
            raise LlmcliError(f"There is no reply {n} in the conversation.")
        return node


def _message(node: Node, model: str, vocab_size: int) -> Message:
    if not node.is_reply:
        return Message("user", node.text)
    # For a reply cut at a stop string, the ids include text that was cut off.
    exact = node.model == model and node.ids and node.reason != "stop_string" and max(node.ids) < vocab_size
    return Message("assistant", node.text, node.ids if exact else None, is_reply=True)
