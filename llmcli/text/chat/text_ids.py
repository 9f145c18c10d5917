"""The ids of a text that is looked at, not answered."""

from __future__ import annotations

from llmcli.errors import UsageError
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tokenizer import Tokenizer


def text_ids(tokenizer: Tokenizer, template: ChatTemplate | None, content: str, *, chat: bool, model: str) -> list[int]:
    """Encode a text, raw or as a user message in the chat template, up to where the reply begins.

    Raises:
        UsageError: the model has no chat template.
    """
    if not chat:
        return encode_raw(tokenizer, content)
    if template is None:
        raise UsageError(f"{model} has no chat template; leave --chat out.")
    return encode_chat(tokenizer, template, [Message("user", content)])
