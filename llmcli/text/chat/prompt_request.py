"""What a prompt is made of, as plain values, before a model's tokenizer and chat template are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.text.chat.messages import Message

if TYPE_CHECKING:
    from llmcli.text.chat.reply_prompt import ReplyPrompt
    from llmcli.text.chat_template.template import ChatTemplate
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptRequest:
    """The prompt of a reply: a text, or messages."""

    text: str = ""
    """The user's message, the text to continue, or the text before a gap; empty with `messages`."""
    before: tuple[Message, ...] = ()
    """The conversation before the user's message."""
    messages: tuple[Message, ...] = ()
    """A whole conversation instead of `text` and `before`."""
    continue_last: bool | None = None
    """Whether the reply continues the last of `messages`; None: if it is the assistant's."""
    system: str | None = None
    variables: Mapping[str, object] = field(default_factory=dict)
    """Further variables of the chat template."""
    prefill: str = ""
    raw: bool = False
    control_tokens: bool = False
    no_thinking: bool = False
    strict_system: bool = False
    after_gap: str | None = None
    """The text after a gap to fill; None for an ordinary prompt."""


def reply_prompt(
    request: PromptRequest, tokenizer: Tokenizer, template: ChatTemplate | None, *, model: str
) -> ReplyPrompt:
    """Make the prompt for the model of that name, without the prefill.

    A model without a chat template continues the text, with a note.

    Raises:
        UsageError: the model has no chat template, and a system prompt, variables or messages need one; or it has no
            tokens to fill a gap with.
    """
    from llmcli.text.chat.reply_prompt import ReplyPrompt

    gap = None
    if request.after_gap is not None:
        from llmcli.text.fill_in import fill_in_of

        gap = fill_in_of(tokenizer, name=model), request.after_gap
    if request.messages and (request.raw or template is None):
        raise UsageError('Without a chat template there can be no "messages"; give a "prompt".')
    if request.raw:
        plain = ReplyPrompt.make(tokenizer, None, request.text)
        return replace(plain, control_tokens=request.control_tokens, gap=gap)
    if template is None:
        if request.before:
            raise UsageError(f"{model} has no chat template, so it cannot continue a conversation.")
        if request.system:
            raise UsageError(f"{model} has no chat template, so there is no place for a --system prompt.")
        if request.variables:
            raise UsageError(f"{model} has no chat template, so there is no variable for --template-arg to set.")
        note = f"{model} has no chat template; it continues the text as with --raw."
        return replace(ReplyPrompt.make(tokenizer, None, request.text), notes=(note,), gap=gap)
    messages = request.messages or (
        [*request.before, Message("user", request.text)] if request.before else request.text
    )
    return ReplyPrompt.make(
        tokenizer,
        template,
        messages,
        system=request.system,
        variables=request.variables,
        continue_last=request.continue_last,
        strict_system=request.strict_system,
        no_thinking=request.no_thinking,
    )
