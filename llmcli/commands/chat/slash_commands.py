"""The table of all slash commands of a chat, and the check whether a message is one."""

from __future__ import annotations

from llmcli.commands.chat.branches import Branches
from llmcli.commands.chat.compose import Composing
from llmcli.commands.chat.context import Context
from llmcli.commands.chat.inspect_reply import ReplyInspector
from llmcli.commands.chat.save_load import Sessions
from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.settings import ModelSettings
from llmcli.commands.chat.slash_command import Command, obey
from llmcli.views.terminal import terminal
from llmcli.views.terminal.fit import hanging


class Commands:
    """All slash commands of a chat."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        own = [Command("help", self._help, "this list")]
        end = [Command("exit", self._exit, "leave, as Ctrl-D does")]
        groups = [
            Branches(session).commands(),
            Composing(session).commands(),
            ModelSettings(session).commands(),
            Context(session).commands(),
            ReplyInspector(session).commands(),
            Sessions(session).commands(),
        ]
        self.table = {command.name: command for group in (own, *groups, end) for command in group}

    def obey(self, text: str) -> bool:
        """Run `text` if it is a slash command; return whether it is. `//text` sends `/text` as a message.

        Raises:
            LlmcliError: the command fails.
        """
        line = text.strip()
        if line.startswith("//"):
            self._session.reply_to(line[1:])
            return True
        known = line[1:].partition(" ")[0] in self.table
        # Several lines that begin with an unknown name are pasted text, such as a path or a comment.
        if not line.startswith("/") or ("\n" in line and not known):
            return False
        obey(self.table, line[1:])
        return True

    def _help(self, _argument: str) -> None:
        heads = {command.name: f"/{command.name} {command.argument}".rstrip() for command in self.table.values()}
        width = max(map(len, heads.values()))
        for name, command in self.table.items():
            self._session.say(hanging(f"{heads[name].ljust(width)}  ", command.what, terminal.row_width()))
        self._session.say(
            'Alt-Enter begins a new line, as does Enter between """ and """. Tab completes, Ctrl-R searches. '
            "Ctrl-C ends a reply, Ctrl-D leaves. For a message that begins with a slash, write //."
        )

    def _exit(self, _argument: str) -> None:
        self._session.leaving = True
