"""`llm chat`: a conversation in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import CONVERSATIONS
from llmcli.commands.shared.options.flags import SHOW, flag, is_flag_given, only, with_options, without
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import read_plain_text
from llmcli.errors import LlmcliError, UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.conversations.live_conversation import LiveConversation
    from llmcli.conversations.records import SettingsRecord

_SAVED = "Conversations"


@dataclass(frozen=True)
class SavingOptions:
    """Which saved conversation to continue, and whether to save this one."""

    continue_latest: Annotated[
        bool,
        flag(
            "--continue",
            "-c",
            env=False,
            panel=_SAVED,
            help="Continue the last conversation, or the last one with -m MODEL.",
        ),
    ] = False
    resume: Annotated[
        str | None,
        flag(
            "--resume",
            env=False,
            metavar="ID",
            panel=_SAVED,
            autocompletion=CONVERSATIONS,
            help="Continue this conversation; llm chats list shows them.",
        ),
    ] = None
    save: Annotated[bool, flag("--save/--no-save", panel=_SAVED, help="Save the conversation.")] = True


@with_options
def chat(
    command: typer.Context,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Text files to send with your first message.")
    ] = None,
    *,
    model_options: Annotated[ModelOptions, without("readable")],
    saving: SavingOptions,
    prompt_options: Annotated[
        PromptOptions, only("file", "system", "no_thinking", "strict_system", "chat_template", "template_arg")
    ],
    sampling_options: SamplingOptions,
    report_options: ReportOptions,
    plain: Annotated[bool, flag("--plain", panel=SHOW, help="Show replies as plain text, not as Markdown.")] = False,
    speculation_options: SpeculationOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Talk with a model, with FILEs added to the first message. Piped text is the first message."""
    from llmcli.commands.shared.speculative import Speculator

    variables = prompt_options.variables()
    sampling_options.check()
    speculator = Speculator(speculation_options)
    # Before torch is imported, so that an error about the conversation comes at once.
    path = _conversation(saving, model_options.model if is_flag_given(command, "model") else None)
    live = _live_conversation(path, save=saving.save)
    if path is not None and live.tree.settings is not None:
        model_options, prompt_options, variables = _restored_options(
            command, live.tree.settings, model_options, prompt_options, variables
        )

    from llmcli.commands.chat.load import ChatModelLoader
    from llmcli.commands.chat.start import run_chat

    names = [*(files or ()), *(prompt_options.file or ())]
    for name in names:
        if not os.path.lexists(Path(name).expanduser()):
            raise UsageError(
                f"There is no file {name!r} to talk about. For a question, start llm chat and type it there, "
                'or use llm generate "...".'
            )
    texts = [(name, read_plain_text(name)) for name in names]
    speculator.find()
    load = ChatModelLoader(model_options, prompt_options, sampling_options, speculator, variables)
    run_chat(load, live, report_options, texts=texts, plain=plain, is_resumed=path is not None)


def _restored_options(
    command: typer.Context,
    before: SettingsRecord,
    model_options: ModelOptions,
    prompt_options: PromptOptions,
    variables: dict[str, object],
) -> tuple[ModelOptions, PromptOptions, dict[str, object]]:
    """Restore the options of a continued conversation, except those given on the command line."""
    if not is_flag_given(command, "model"):
        model_options = replace(model_options, model=before.source)
    if not is_flag_given(command, "system"):
        prompt_options = replace(prompt_options, system=before.system)
    if not is_flag_given(command, "chat_template"):
        prompt_options = replace(prompt_options, chat_template=before.template)
    if not is_flag_given(command, "template_arg"):
        variables = dict(before.template_args)
    return model_options, prompt_options, variables


def _live_conversation(path: Path | None, *, save: bool) -> LiveConversation:
    """Start a new conversation, or read the one in the file `path` and report damage to it."""
    from llmcli.conversations.live_conversation import LiveConversation

    if path is None:
        return LiveConversation(save=save, on_fault=terminal.error)
    live, damage = LiveConversation.resume(path, save=save, on_fault=terminal.error)
    if damage:
        terminal.error(damage)
    return live


def _conversation(saving: SavingOptions, model: str | None) -> Path | None:
    """The file of the conversation to continue: the named one, the latest, or the latest with `model`.

    None for a new conversation.

    Raises:
        UsageError: there is no such conversation.
    """
    from llmcli.conversations.store import conversation_files, find_conversation

    if saving.resume is not None:
        return find_conversation(saving.resume)
    if not saving.continue_latest:
        return None
    paths = conversation_files()
    if model is None and paths:
        return paths[0]
    from llmcli.conversations.records import model_source

    for path, settings in _settings_of(paths):
        if model is not None and (settings.source == model_source(model) or settings.model == model):
            return path
    raise UsageError(f"There is no conversation{f' with {model}' if model else ''} to go on with.")


def _settings_of(paths: list[Path]) -> Iterator[tuple[Path, SettingsRecord]]:
    from llmcli.conversations.store import read_conversation

    for path in paths:
        try:
            settings = read_conversation(path)[0].settings
        except LlmcliError:
            continue  # damaged: it cannot be continued
        if settings is not None:
            yield path, settings
