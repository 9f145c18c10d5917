"""`llm generate --log`, `--continue` and `--resume`: the conversation that a run continues and is kept in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate.options import GenerateOptions
from llmcli.commands.shared.continued import conversation_path, restored_options
from llmcli.commands.shared.options.flags import is_flag_given
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.conversations.live_conversation import LiveConversation, ReplyRecorder
    from llmcli.conversations.records import SettingsRecord
    from llmcli.conversations.tree import Node
    from llmcli.engine import SamplingParams
    from llmcli.text.chat.prompt import Message

# The most characters of a title in a note.
_TITLE = 40


class SavedRun:
    """The conversation of a run: the messages before it, and its question and replies as they come.

    Without a conversation there are no messages, and nothing is kept.
    """

    def __init__(self, live: LiveConversation | None, *, is_continued: bool) -> None:
        self._live, self._is_continued = live, is_continued
        self._question: Node | None = None

    @property
    def is_continued(self) -> bool:
        """Whether there was a conversation before."""
        return self._is_continued

    @property
    def is_kept(self) -> bool:
        """Whether there is a conversation to keep the replies in."""
        return self._live is not None

    @property
    def id(self) -> str | None:
        """The name of the conversation's file, without its suffix; None if there is none yet, or none is written."""
        path = None if self._live is None else self._live.path
        return None if path is None else path.stem

    def messages(self, model: str, vocab_size: int) -> list[Message]:
        """The messages of the conversation so far that `model` reads before the question."""
        assert self._live is not None
        return self._live.tree.messages(model=model, vocab_size=vocab_size)

    def recorder(self, settings: SettingsRecord, text: str, params: SamplingParams) -> ReplyRecorder:
        """A recorder for a reply to `text`, which is kept at the first call, for all replies of the run."""
        live = self._live
        assert live is not None
        if self._question is None:
            live.record_settings(settings)
            self._question = live.ask(text)
        return live.answer(self._question, settings.model, params)


def continued(invocation: typer.Context, options: GenerateOptions) -> tuple[Path | None, GenerateOptions]:
    """The file of the conversation to continue, None for a new one, and the options with its settings.

    Raises:
        UsageError: there is no such conversation, or flags contradict each other.
    """
    prompt, saving = options.prompt, options.saving
    if prompt.fill_in is not None and saving.log and is_flag_given(invocation, "log"):
        raise UsageError("--log does not go with --fill-in, whose prompt is two texts.")
    name = "--resume" if saving.resume is not None else "--continue"
    if (saving.continue_latest or saving.resume is not None) and (prompt.fill_in is not None or prompt.raw):
        raise UsageError(f"{name} continues a conversation, and --raw and --fill-in leave out the chat template.")
    model = options.model.model if is_flag_given(invocation, "model") else None
    path = conversation_path(saving, model)
    if path is None:
        return None, options
    from llmcli.conversations.store import read_conversation

    tree, _ = read_conversation(path)
    if terminal.is_terminal(sys.stderr):
        title = " ".join(tree.title().split())
        terminal.note(f"Continuing {path.stem}: {title if len(title) <= _TITLE else title[: _TITLE - 1] + '…'}")
    if tree.settings is None:
        return path, options
    restored = restored_options(invocation, tree.settings, options.model, prompt)
    return path, replace(options, model=restored[0], prompt=restored[1])


@contextmanager
def saved_run(invocation: typer.Context, options: GenerateOptions, path: Path | None) -> Iterator[SavedRun]:
    """Open the conversation in the file `path`, or prepare a new one for --log; closed at the end.

    --no-log on the command line reads a conversation and does not write to it.

    Raises:
        LlmcliError: the file is damaged, or open in another process.
        typer.Exit: at the end, the conversation could not be written.
    """
    save = not is_flag_given(invocation, "log") or options.saving.log
    is_new = path is None and options.saving.log and options.prompt.fill_in is None
    if path is None and not is_new:
        yield SavedRun(None, is_continued=False)
        return
    from llmcli.conversations.live_conversation import LiveConversation
    from llmcli.conversations.store import ConversationKind

    faults: list[str] = []

    def tell(fault: str) -> None:
        faults.append(fault)
        terminal.error(fault)

    if path is None:
        live = LiveConversation(kind=ConversationKind.RUN, on_fault=tell)
    else:
        live, damage = LiveConversation.resume(path, save=save, on_fault=tell)
        if damage:
            terminal.error(damage)
    try:
        yield SavedRun(live, is_continued=path is not None)
    finally:
        live.close()
    if faults:
        raise typer.Exit(1)
