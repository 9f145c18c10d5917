"""Going back in a conversation: `/clear /undo /retry /branch /branches`. Removed messages stay as a branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len

from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.slash_command import Command, whole_number
from llmcli.conversations.tree import Node
from llmcli.engine import Step
from llmcli.errors import UsageError
from llmcli.text.chat.attached_files import without_files
from llmcli.views.terminal import terminal
from llmcli.views.terminal.fit import shortened

_PREVIEW = 60
_BETWEEN = " / "


class Branches:
    """The commands that move to another message or branch of the conversation."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command("clear", self._clear, "begin anew; what was said, the system prompt and the settings are kept"),
            Command("undo", self._undo, "take back your last message and its reply"),
            Command("retry", self._retry, "generate another reply to your last message"),
            Command(
                "branch",
                self._branch,
                "go back to token N of the last reply, and continue with its alternative K",
                "N K",
            ),
            Command("branches", self._branches, "list the branches; with a number, continue that one", "[NUMBER]"),
        ]

    def _clear(self, _argument: str) -> None:
        session, tree = self._session, self._session.live.tree
        before = tree.head
        session.live.go_to(0)
        kept = [f"what was said (/branches {self._number_of(before)} goes back to it)"] if before else []
        kept += ["the system prompt"] if session.conversation.system else []
        session.note(f"The conversation begins anew. Kept: {', '.join([*kept, 'the model'])} and all settings.")

    def _number_of(self, node: int) -> int:
        """The number of the first branch with message `node`."""
        tree = self._session.live.tree
        return next(
            number for number, leaf in enumerate(tree.leaves(), 1) if any(each.n == node for each in tree.path(leaf.n))
        )

    def _undo(self, _argument: str) -> None:
        question = self._last_question()
        self._session.live.go_to(question.after)
        self._session.note(f"Taken back: {preview(question.text)}")

    def _retry(self, _argument: str) -> None:
        self._session.answer(self._last_question())

    def _branch(self, argument: str) -> None:
        from llmcli.engine.sampling.trace import choices

        session = self._session
        numbers = argument.split()
        if len(numbers) != 2:
            raise UsageError("/branch needs the number of a token and of its alternative, as in /branch 12 2.")
        reply = session.last_reply()
        at, rank = (whole_number(number, "a number") for number in numbers)
        if not -len(reply.ids) <= at < len(reply.ids):
            raise UsageError(f"There is no token {at}: the last reply has {len(reply.ids)}, numbered from 0.")
        at %= len(reply.ids)
        vocabulary = session.loaded.tokenizer.vocab_size
        if not 1 <= rank <= vocabulary:
            raise UsageError(f"Alternatives are numbered from 1, the most probable, to {vocabulary}.")
        params = session.params_of(reply.node)
        before = [*reply.prompt, *reply.ids[:at]]
        logits = session.conversation.engine.next_logits(before, prompt=len(reply.prompt))
        chosen = choices(logits, params, before, session.loaded.tokenizer, top=rank)[rank - 1]
        if chosen.id == reply.ids[at]:
            raise UsageError(f"Alternative {rank} is what the reply says there. /why {at} lists the others.")
        question = session.live.tree.nodes[reply.node.after]
        if chosen.id in session.loaded.stop_ids:
            self._end_there(question, reply.ids[:at])
            return
        known: list[Step] = []
        if len(session.last_steps) == len(reply.ids) and session.last_steps[at].logprob is not None:
            step = replace(
                session.last_steps[at],
                id=chosen.id,
                logprob=chosen.logprob,
                rank=rank,
                sampled_prob=chosen.sampled_prob,
            )
            known = [*session.last_steps[:at], step]
        session.answer(question, begun=(*reply.ids[:at], chosen.id), before=known)

    def _end_there(self, question: Node, ids: tuple[int, ...]) -> None:
        """Record the reply `ids`, cut where the chosen alternative is a stop token."""
        session = self._session
        if not ids:
            raise UsageError("That alternative ends the reply before it begins.")
        recorder = session.live.answer(question, session.loaded.name, session.params)
        recorder.add(session.loaded.tokenizer.decode(ids), ids)
        recorder.end("stop")
        session.note("That alternative is the end of the reply; it ends there now.")

    def _branches(self, argument: str) -> None:
        session, tree = self._session, self._session.live.tree
        leaves = tree.leaves()
        if not leaves:
            raise UsageError("Nothing has been said yet.")
        if argument:
            number = whole_number(argument, "the number of a branch")
            if not 1 <= number <= len(leaves):
                count = "is 1" if len(leaves) == 1 else f"are {len(leaves)}, numbered from 1"
                raise UsageError(f"There is no branch {number}; there {count}.")
            session.live.go_to(leaves[number - 1].n)
            session.note(f"On branch {number}, after: {preview(leaves[number - 1].text)}")
            return
        paths = [tree.path(leaf.n) for leaf in leaves]
        numbers, lengths = len(str(len(paths))), max(len(messages(len(path))) for path in paths)
        for number, path in enumerate(paths, 1):
            here = ">" if path[-1].n == tree.head else " "
            head = f"{here}{number:>{numbers}}  {messages(len(path)):>{lengths}}  "
            session.say(head + _exchange(path[-2:], terminal.row_width() - cell_len(head)))

    def _last_question(self) -> Node:
        tree = self._session.live.tree
        pending = tree.unanswered()
        if pending is not None:
            return pending
        path = tree.path()
        if not path:
            raise UsageError("Nothing has been said yet.")
        return path[-2]


def _exchange(nodes: Sequence[Node], columns: int) -> str:
    """A message and its reply in one line of at most `columns` cells; a short message leaves its room to the reply."""
    first, *rest = (preview(node.text, columns) for node in nodes)
    if not rest:
        return first
    room = columns - len(_BETWEEN)
    first = shortened(first, max(room - cell_len(rest[0]), room // 2))
    return first + _BETWEEN + shortened(rest[0], room - cell_len(first))


def messages(count: int) -> str:
    """A number of messages: "1 message" or "2 messages"."""
    return f"{count} message{'' if count == 1 else 's'}"


def preview(text: str, columns: int = _PREVIEW) -> str:
    """The beginning of a message, without the files sent with it, as one line of at most `columns` cells."""
    return shortened(" ".join(without_files(text).split()), columns)
