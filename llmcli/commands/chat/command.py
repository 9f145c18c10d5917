"""`llm chat`: a conversation in the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.continued import conversation_path, restored_options
from llmcli.commands.shared.options.flags import SHOW, flag, is_flag_given, only, with_options, without
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.saving import SavingOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import read_plain_text
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.conversations.live_conversation import LiveConversation


@with_options
def chat(
    command: typer.Context,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Text files to send with your first message.")
    ] = None,
    *,
    model_options: Annotated[ModelOptions, without("readable")],
    saving: Annotated[SavingOptions, without("log")],
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

    prompt_options.variables()
    sampling_options.check()
    speculator = Speculator(speculation_options)
    # Before torch is imported, so that an error about the conversation comes at once.
    path = conversation_path(saving, model_options.model if is_flag_given(command, "model") else None)
    live = _live_conversation(path, save=saving.save)
    if path is not None and live.tree.settings is not None:
        model_options, prompt_options = restored_options(command, live.tree.settings, model_options, prompt_options)

    from llmcli.commands.chat.load import ChatModelLoader
    from llmcli.commands.chat.start import run_chat

    names = [*(files or ()), *(prompt_options.file or ())]
    for name in names:
        _check_text_file(name)
    texts = [(name, read_plain_text(name)) for name in names]
    speculator.find()
    load = ChatModelLoader(model_options, prompt_options, sampling_options, speculator, prompt_options.variables())
    run_chat(load, live, report_options, texts=texts, plain=plain, is_resumed=path is not None)


def _live_conversation(path: Path | None, *, save: bool) -> LiveConversation:
    """Start a new conversation, or read the one in the file `path` and report damage to it."""
    from llmcli.conversations.live_conversation import LiveConversation

    if path is None:
        return LiveConversation(save=save, on_fault=terminal.error)
    live, damage = LiveConversation.resume(path, save=save, on_fault=terminal.error)
    if damage:
        terminal.error(damage)
    live.become_chat()
    return live


def _check_text_file(name: str) -> None:
    """Raise `UsageError` if there is no such file, or if it is clearly a model."""
    path = Path(name).expanduser()
    if path.is_dir() or path.suffix == ".gguf":
        raise UsageError(f"{name} is not a text file. A model is given with -m: llm chat -m {name}.")
    if not os.path.lexists(path):
        raise UsageError(
            f"There is no file {name!r} to talk about. A model is given with -m. For a question, start llm chat and "
            'type it there, or use llm generate "...".'
        )
