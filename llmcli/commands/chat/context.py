"""How full the context is, and what to do when it is full: `/tokens /context /stats`."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from rich.cells import cell_len

from llmcli.commands.chat.branches import preview
from llmcli.commands.chat.session import NEARLY_FULL, ChatSession
from llmcli.commands.chat.slash_command import Command, named
from llmcli.conversations.tree import SUMMARY_REQUEST, Node
from llmcli.engine import Finish, Interruption, Step
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.errors import LlmcliError, PromptTooLongError, UsageError
from llmcli.views.terminal import terminal

_POLICIES = ("drop-oldest", "summarise", "stop")
# When old messages are dropped, leave room for a reply: 256 tokens, at most 1/4 of the context.
_ROOM, _ROOM_SHARE = 256, 4
# Length of a summary: 200 tokens, at most 1/8 of the context.
_SUMMARY, _SUMMARY_SHARE = 200, 8


class Context:
    """The commands about the context, and the check that a message fits into it."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        self._policy = "stop"
        self._waiting: tuple[str, int | None] | None = None
        """The message that did not fit, and the number of the message it was to follow."""
        session.fit = self.fit

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command("tokens", self._tokens, "count the tokens of each message, or of TEXT", "[TEXT]"),
            Command(
                "context",
                self._context,
                "how full the context is; drop-oldest, summarise or stop: what to do then",
                "[ACTION]",
                named(*_POLICIES),
            ),
            Command("stats", lambda _: self._session.say_stats(), "what the last reply cost"),
        ]

    def fit(self, text: str, after: int | None) -> None:
        """Check that `text` fits after message `after`, or make room by the chosen policy; note when little is left.

        Raises:
            PromptTooLongError: it does not fit, and nothing was dropped.
        """
        session, self._waiting = self._session, None
        limit = session.conversation.engine.context_length
        length = len(session.prompt(text, after))
        if length >= limit:
            if self._policy == "stop":
                self._waiting = (text, after)
                raise PromptTooLongError(
                    f"With this message of {self._count(text)} tokens the conversation has {length}, but the context "
                    f"holds {limit} with at least one for the reply. Nothing was cut. /context drop-oldest leaves the "
                    "oldest messages out and sends it, /context summarise puts a summary in their place, "
                    "/context stop forgets it; /undo and /clear make room too."
                )
            self._make_room(text, after, limit)
            length = len(session.prompt(text, after))
        if length >= NEARLY_FULL * limit:
            session.note(
                f"This message has {self._count(text)} tokens; with it {length} of {limit} are used, "
                f"{limit - length} are left for the reply."
            )

    def _make_room(self, text: str, after: int | None, limit: int) -> None:
        session = self._session
        path = session.live.tree.read(after)
        summary_tokens = min(_SUMMARY, limit // _SUMMARY_SHARE) if self._policy == "summarise" else 0
        # The prompt contains the request for the summary as well as the summary.
        extra = summary_tokens + self._count(SUMMARY_REQUEST) if summary_tokens else 0
        wanted = limit - min(_ROOM, limit // _ROOM_SHARE) - extra
        questions = range(2, len(path) + 1, 2)

        def too_long_without(place: int) -> bool:
            return len(self._prompt_from(path[place:], text)) > wanted

        # Drop the fewest of the oldest exchanges that make enough room, or all if even that is not enough.
        enough = bisect_left(questions, True, key=lambda at: not too_long_without(at))
        place = questions[min(enough, len(questions) - 1)] if questions else 0
        if not path or len(self._prompt_from(path[place:], text)) + extra >= limit:
            raise PromptTooLongError(
                f"The message has {self._count(text)} tokens and the context holds {limit} with at least one for the "
                "reply: it does not fit even alone."
            )
        summary = self._summary(path[place - 1], summary_tokens) if summary_tokens else None
        session.live.leave_out(path[place - 1].n, summary)
        instead = f" This is read in their place: {summary.strip()}" if summary else ""
        # Not a note, which --quiet would hide: the user must know which messages are dropped.
        terminal.say(
            f"The model no longer reads the oldest {place} messages, from “{preview(path[0].text)}” on; "
            f"they stay in the conversation.{instead}"
        )

    def _prompt_from(self, nodes: list[Node], text: str) -> list[int]:
        session = self._session
        messages = session.messages(nodes[-1].n if nodes else 0)
        session.conversation.messages = messages[len(messages) - len(nodes) :]
        return session.conversation.prompt(text)

    def _summary(self, last: Node, tokens: int) -> str:
        """Let the model summarize the conversation up to message `last` in at most `tokens` tokens.

        Raises:
            LlmcliError: it was interrupted, or the summary is empty.
        """
        session = self._session
        session.note("Summarizing the oldest messages; Ctrl-C cancels.")
        session.conversation.messages = session.messages(last.n)
        interruption = Interruption()
        text = ""
        with interruption.catching_ctrl_c(), session.keyboard.without_echo():
            params = replace(session.params, temperature=0.0, max_tokens=tokens, stop=())
            events = session.conversation.ask(SUMMARY_REQUEST, params, interruption=interruption)
            apart = ThinkingApart(session.conversation.tokenizer, session.conversation.start)
            for event in map(apart, events):
                if isinstance(event, Step | Finish):
                    text += event.text
        if interruption.requested or not text.strip():
            raise LlmcliError("There is no summary; the conversation is as it was, and the message was not sent.")
        return text

    def _context(self, argument: str) -> None:
        session = self._session
        if argument and argument not in _POLICIES:
            raise UsageError(f"/context takes {', '.join(_POLICIES)}.")
        limit = session.conversation.engine.context_length
        if argument:
            self._policy = argument
        session.say(f"Context: {session.used()} of {limit} tokens used. When it is full: {self._policy}.")
        if argument and self._waiting is not None:
            text, after = self._waiting
            # The waiting message already contains the attached texts.
            session.attached.clear()
            self._waiting = None
            if argument == "stop":
                session.note("The message that did not fit is forgotten.")
            else:
                session.reply_to(text, after=after)

    def _tokens(self, argument: str) -> None:
        session = self._session
        if argument:
            session.say(f"{self._count(argument)} tokens")
            return
        tree = session.live.tree
        left_out = {node.n for node in tree.left_out()}
        rows = [("system", session.conversation.system, False)] if session.conversation.system else []
        rows += [(node.model or "you", node.text, node.n in left_out) for node in tree.path()]
        counts = [self._count(text) for _, text, _ in rows]
        for (author, text, out), count in zip(rows, counts, strict=True):
            head, end = f"{count:6}  {author}: ", "  (not read any more)" if out else ""
            session.say(head + preview(text, max(terminal.row_width() - cell_len(head + end), 20)) + end)
        session.say(f"{session.used():6}  of {session.conversation.engine.context_length}, the template included")

    def _count(self, text: str) -> int:
        return len(self._session.loaded.tokenizer.encode(text, add_special_tokens=False))
