"""Find the saved conversation that --continue or --resume names, and restore its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmcli.commands.shared.options.flags import is_flag_given
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.saving import SavingOptions
from llmcli.errors import LlmcliError, UsageError

if TYPE_CHECKING:
    from llmcli.conversations.records import SettingsRecord


def conversation_path(saving: SavingOptions, model: str | None) -> Path | None:
    """The file of the chat or run to continue: the named one, the latest, or the latest with `model`.

    None for a new conversation.

    Raises:
        UsageError: there is no such conversation, or it is not one that can be continued.
    """
    if saving.resume is None and not saving.continue_latest:
        return None
    from llmcli.conversations.records import model_source
    from llmcli.conversations.store import ANY, conversation_files, find_conversation

    if saving.resume is not None:
        return _continuable(find_conversation(saving.resume, ANY))
    paths = conversation_files(ANY)
    if model is None and paths:
        return _continuable(paths[0])
    for path, settings in _settings_of(paths):
        if model is not None and (settings.source == model_source(model) or settings.model == model):
            return _continuable(path)
    if not paths:
        raise UsageError("There is no conversation to continue: no chat has been saved, and no run with --log.")
    raise UsageError(f"There is no conversation with {model} to continue; --resume ID -m {model} continues any other.")


def restored_options(
    command: typer.Context, before: SettingsRecord, model: ModelOptions, prompt: PromptOptions
) -> tuple[ModelOptions, PromptOptions]:
    """Restore the options of a continued conversation, except those given on the command line."""
    if not is_flag_given(command, "model"):
        model = replace(model, model=before.source)
    if not is_flag_given(command, "system"):
        prompt = replace(prompt, system=before.system)
    if not is_flag_given(command, "chat_template"):
        prompt = replace(prompt, chat_template=before.template)
    if not is_flag_given(command, "template_arg"):
        variables = [f"{name}={json.dumps(value)}" for name, value in before.template_args.items()]
        prompt = replace(prompt, template_arg=variables)
    return model, prompt


def template_source(name: str | None) -> str | None:
    """A name for the chat template that works in any working directory: a file's absolute path, otherwise its name."""
    from llmcli.checkpoint.chat_template_file import is_template_file

    if not name or not is_template_file(name):
        return name
    path = Path(name).expanduser()
    # Do not resolve the link of a pipe such as /dev/fd/3, whose target is not a path.
    return str(path.resolve() if path.is_file() else path.absolute())


def _continuable(path: Path) -> Path:
    """Return `path` unless it is known that the text in it is no conversation."""
    for _, settings in _settings_of([path]):
        if settings.raw:
            raise UsageError(
                f"The run {path.stem} continued a text without a chat template, so it cannot be "
                "continued as a conversation. --resume ID continues another; llm chats list and llm log show them."
            )
    return path


def _settings_of(paths: list[Path]) -> Iterator[tuple[Path, SettingsRecord]]:
    from llmcli.conversations.store import read_conversation

    for path in paths:
        try:
            settings = read_conversation(path)[0].settings
        except LlmcliError:
            continue  # damaged: opening it reports the damage
        if settings is not None:
            yield path, settings
