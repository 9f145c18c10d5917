"""Make a prompt from a text and the prompt options of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.commands.shared.options.prompt import PromptOptions
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.prompt import Message
    from llmcli.text.chat.reply_prompt import ReplyPrompt


def reply_prompt(
    loaded: LoadedModel,
    text: str,
    options: PromptOptions,
    variables: Mapping[str, object],
    *,
    before: Sequence[Message] = (),
) -> ReplyPrompt:
    """Make the prompt for `text` after the messages `before`, which have no system prompt.

    A model without a chat template continues the text, with a note.

    Raises:
        UsageError: the model has no chat template, and --system, --template-arg or messages need one.
    """
    from llmcli.text.chat.prompt import Message
    from llmcli.text.chat.reply_prompt import ReplyPrompt

    if options.raw:
        return replace(ReplyPrompt.make(loaded.tokenizer, None, text), control_tokens=options.control_tokens)
    if loaded.template is None:
        if before:
            raise UsageError(f"{loaded.name} has no chat template, so it cannot continue a conversation.")
        if options.system:
            raise UsageError(f"{loaded.name} has no chat template, so there is no place for a --system prompt.")
        if variables:
            raise UsageError(f"{loaded.name} has no chat template, so there is no variable for --template-arg to set.")
        note = f"{loaded.name} has no chat template; it continues the text as with --raw."
        return replace(ReplyPrompt.make(loaded.tokenizer, None, text), notes=(note,))
    return ReplyPrompt.make(
        loaded.tokenizer,
        loaded.template,
        [*before, Message("user", text)] if before else text,
        system=options.system,
        variables=variables,
        strict_system=options.strict_system,
        no_thinking=options.no_thinking,
    )
