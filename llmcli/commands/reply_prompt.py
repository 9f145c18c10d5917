"""From what a user asks to the ids the model is given, in its chat template or as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.views import terminal

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.text.chat_prompt import Message
    from llmcli.text.fill_in import FillIn
    from llmcli.text.template import ChatTemplate


@dataclass(frozen=True)
class ReplyPrompt:
    """What a reply is to answer: a text to continue, or the messages of a conversation."""

    loaded: LoadedModel
    template: ChatTemplate | None
    """None for a text to continue."""
    text: str
    messages: tuple[Message, ...]
    variables: Mapping[str, object] = field(default_factory=dict)
    control_tokens: bool = False
    """Whether control tokens may be spelled in a text to continue."""
    gap: tuple[FillIn, str] | None = None
    """How to fill a gap behind `text`, and what comes behind the gap."""

    @classmethod
    def make(
        cls,
        loaded: LoadedModel,
        text: str,
        system: str | None,
        variables: Mapping[str, object],
        *,
        raw: bool,
        quiet: bool,
    ) -> ReplyPrompt:
        """The prompt for `text`; a model without a chat template continues it, and the user is told.

        Raises:
            UsageError: there is no chat template for what was said besides.
        """
        from llmcli.text.chat_prompt import Message

        if loaded.template is None and not raw:
            if system:
                raise UsageError(f"{loaded.name} has no chat template, so there is no place for a --system prompt.")
            if variables:
                raise UsageError(
                    f"{loaded.name} has no chat template, so there is no variable for --template-arg to set."
                )
            if not quiet:
                terminal.note(f"{loaded.name} has no chat template; it continues the text as with --raw.")
        if raw or loaded.template is None:
            return cls(loaded, None, text, ())
        messages = (*([Message("system", system)] if system else []), Message("user", text))
        return cls(loaded, loaded.template, text, messages, variables)

    def ids(self, prefill: str) -> list[int]:
        """The tokens up to where the model goes on, which is after `prefill`."""
        from llmcli.text.chat_prompt import encode_chat, encode_raw

        if self.gap is not None:
            fill_in, suffix = self.gap
            return fill_in.ids(self.loaded.tokenizer, self.text, suffix)
        if self.template is None:
            return encode_raw(self.loaded.tokenizer, self.text + prefill, control_tokens=self.control_tokens)
        return encode_chat(
            self.loaded.tokenizer, self.template, self.messages, prefill=prefill, template_args=self.variables
        )
