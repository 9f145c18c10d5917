"""Make a prompt from a text and the prompt options of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.commands.shared.options.prompt import PromptOptions
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.reply_prompt import ReplyPrompt


def reply_prompt(
    loaded: LoadedModel, text: str, options: PromptOptions, variables: Mapping[str, object]
) -> ReplyPrompt:
    """Make the prompt for `text`. A model without a chat template continues the text, with a note.

    Raises:
        UsageError: --system or --template-arg is given and the model has no chat template.
    """
    from llmcli.text.chat.reply_prompt import ReplyPrompt

    if options.raw:
        return replace(ReplyPrompt.make(loaded.tokenizer, None, text), control_tokens=options.control_tokens)
    if loaded.template is None:
        if options.system:
            raise UsageError(f"{loaded.name} has no chat template, so there is no place for a --system prompt.")
        if variables:
            raise UsageError(f"{loaded.name} has no chat template, so there is no variable for --template-arg to set.")
        note = f"{loaded.name} has no chat template; it continues the text as with --raw."
        return replace(ReplyPrompt.make(loaded.tokenizer, None, text), notes=(note,))
    return ReplyPrompt.make(
        loaded.tokenizer,
        loaded.template,
        text,
        system=options.system,
        variables=variables,
        strict_system=options.strict_system,
        no_thinking=options.no_thinking,
    )
