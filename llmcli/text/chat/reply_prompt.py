"""The prompt of a reply (a text to continue, messages in a chat template, or a gap to fill) and its token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.text.chat.messages import Message, as_messages
from llmcli.text.chat.prompt import ChatPrompt, build_chat, encode_raw
from llmcli.text.reasoning import ReplyStart

if TYPE_CHECKING:
    from llmcli.text.chat_template.template import ChatTemplate
    from llmcli.text.fill_in import FillIn
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ReplyPrompt:
    """A prompt that can be encoded with or without a prefill."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    """None for a raw text to continue."""
    text: str = ""
    """The text to continue, or the text before a gap."""
    messages: tuple[Message, ...] = ()
    """The messages that the template writes."""
    variables: Mapping[str, object] = field(default_factory=dict)
    """Variables of the template."""
    continue_last: bool = False
    """Whether the reply continues the last message, which is the assistant's."""
    strict_system: bool = False
    """Whether a system prompt that the template does not write is an error."""
    no_thinking: bool = False
    """Whether the model should answer without thinking."""
    control_tokens: bool = False
    """Whether spellings of control tokens in a raw text become control tokens."""
    gap: tuple[FillIn, str] | None = None
    """For fill-in-the-middle: the model's format, and the text after the gap."""
    notes: tuple[str, ...] = ()
    """Notes for the user about a raw text."""

    @classmethod
    def make(
        cls,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        prompt: str | Sequence[Message | Mapping[str, object]],
        *,
        system: str | None = None,
        variables: Mapping[str, object] | None = None,
        continue_last: bool | None = None,
        strict_system: bool = False,
        no_thinking: bool = False,
    ) -> ReplyPrompt:
        """The prompt for a text or for messages in `template`; without a template, the text is continued.

        `continue_last` is by default true if the last message is the assistant's.

        Raises:
            UsageError: messages, a system prompt or variables need a template, or the format of a message is wrong.
        """
        if template is None:
            if not isinstance(prompt, str):
                raise UsageError("Without a chat template there can be no messages; give a text.")
            if system or variables:
                raise UsageError("A system prompt or template variables need a chat template, and there is none.")
            return cls(tokenizer, None, prompt)
        text = prompt if isinstance(prompt, str) else ""
        messages = (Message("user", prompt),) if isinstance(prompt, str) else as_messages(prompt)
        if system:
            messages = (Message("system", system), *messages)
        return cls(
            tokenizer,
            template,
            text,
            messages,
            variables or {},
            messages[-1].role == "assistant" if continue_last is None else continue_last,
            strict_system,
            no_thinking,
        )

    @property
    def is_chat(self) -> bool:
        """Whether the chat template writes the prompt."""
        return self.template is not None and self.gap is None

    def built(self, prefill: str = "") -> ChatPrompt:
        """The token ids up to the end of `prefill`, where the model continues, and notes for the user."""
        if self.gap is not None:
            fill_in, suffix = self.gap
            return ChatPrompt(fill_in.ids(self.tokenizer, self.text, suffix))
        if self.template is None:
            ids = encode_raw(self.tokenizer, self.text + prefill, control_tokens=self.control_tokens)
            return ChatPrompt(ids, self.notes, start=ReplyStart(prefill=prefill))
        return build_chat(
            self.tokenizer,
            self.template,
            self.messages,
            prefill=prefill,
            template_args=self.variables,
            continue_last=self.continue_last,
            strict_system=self.strict_system,
            no_thinking=self.no_thinking,
        )
