"""Run a chat: load the model, then answer messages until the user leaves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from llmcli.commands.chat.completion import CommandCompleter
from llmcli.commands.chat.compose import attach_text
from llmcli.commands.chat.keyboard import Keyboard
from llmcli.commands.chat.load import ChatModelLoader
from llmcli.commands.chat.save_load import introduce
from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.sighup import exit_on_hangup
from llmcli.commands.chat.slash_commands import Commands
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.prompt_input import read_stdin, stdin_is_piped
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.views.terminal import terminal


def run_chat(
    load: ChatModelLoader,
    live: LiveConversation,
    report: ReportOptions,
    *,
    texts: Sequence[tuple[str, str]],
    plain: bool,
    is_resumed: bool,
) -> None:
    """Load the model, answer piped text, then typed messages, until the user leaves.

    `texts` are names and contents of files to attach to the first message. `is_resumed`: it is a saved conversation.
    """
    with ExitStack() as stack:
        stack.callback(live.close)
        stack.enter_context(exit_on_hangup())
        first = read_stdin() if stdin_is_piped() else ""
        keyboard = Keyboard(stack)
        session = ChatSession(load.first(), live, report, keyboard, load.another, plain=plain)
        stack.callback(session.close)
        if is_resumed:
            introduce(session)
        for name, text in texts:
            attach_text(session, name, text)
        if first:
            session.reply_to(first)
        _converse(session, keyboard)


def _converse(session: ChatSession, keyboard: Keyboard) -> None:
    """Answer typed messages until the user leaves, then note how to continue."""
    commands = Commands(session)
    limit = session.conversation.engine.context_length
    session.note(f"{session.loaded.name}, {limit} tokens of context. /help lists the commands.")
    messages = keyboard.messages(CommandCompleter(commands.table), session.toolbar)
    session.run(messages, commands.obey)
    path = session.saved_as()
    if path is not None and session.live.tree.path() and terminal.is_terminal(sys.stderr):
        session.note(f"llm chat -c continues this conversation; later, this does:\nllm chat --resume {path.stem}")
