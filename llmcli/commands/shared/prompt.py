"""From what a user asks to the ids the model is given, in its chat template or as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.text.chat.prompt import ChatPrompt, Message
    from llmcli.text.chat_template.template import ChatTemplate
    from llmcli.text.fill_in import FillIn


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
    strict_system: bool = False
    """Whether a system prompt that the template does not write is an error."""
    no_thinking: bool = False
    """Whether the model is to answer without a thought."""
    notes: tuple[str, ...] = ()
    """What the user is to be told of how the prompt is built, beside the notes of the template."""

    @classmethod
    def make(
        cls,
        loaded: LoadedModel,
        text: str,
        system: str | None,
        variables: Mapping[str, object],
        *,
        raw: bool,
        strict_system: bool = False,
        no_thinking: bool = False,
    ) -> ReplyPrompt:
        """The prompt for `text`; a model without a chat template continues it, with a note.

        Raises:
            UsageError: there is no chat template for what was said besides.
        """
        from llmcli.text.chat.prompt import Message

        if loaded.template is None and not raw:
            if system:
                raise UsageError(f"{loaded.name} has no chat template, so there is no place for a --system prompt.")
            if variables:
                raise UsageError(
                    f"{loaded.name} has no chat template, so there is no variable for --template-arg to set."
                )
        if loaded.template is None and not raw:
            note = f"{loaded.name} has no chat template; it continues the text as with --raw."
            return cls(loaded, None, text, (), notes=(note,))
        if raw or loaded.template is None:
            return cls(loaded, None, text, ())
        messages = (*([Message("system", system)] if system else []), Message("user", text))
        return cls(
            loaded, loaded.template, text, messages, variables, strict_system=strict_system, no_thinking=no_thinking
        )

    def built(self, prefill: str, *, continue_last: bool = False) -> ChatPrompt:
        """The tokens up to where the model goes on, which is after `prefill`, and notes for the user.

        With `continue_last` it goes on with the last of the messages.
        """
        from llmcli.text.chat.prompt import ChatPrompt, build_chat, encode_raw
        from llmcli.text.reasoning import ReplyStart

        if self.gap is not None:
            fill_in, suffix = self.gap
            return ChatPrompt(fill_in.ids(self.loaded.tokenizer, self.text, suffix))
        if self.template is None:
            raw = encode_raw(self.loaded.tokenizer, self.text + prefill, control_tokens=self.control_tokens)
            return ChatPrompt(raw, self.notes, start=ReplyStart(prefill=prefill))
        return build_chat(
            self.loaded.tokenizer,
            self.template,
            self.messages,
            prefill=prefill,
            template_args=self.variables,
            continue_last=continue_last,
            strict_system=self.strict_system,
            no_thinking=self.no_thinking,
        )

    def ids(self, prefill: str) -> list[int]:
        """The tokens of `built`."""
        return self.built(prefill).ids

    @property
    def is_chat(self) -> bool:
        """Whether the chat template writes it."""
        return self.template is not None and self.gap is None

    @property
    def stop_ids(self) -> Collection[int]:
        """The tokens that end a reply to it."""
        return (self.loaded.stop_ids if self.is_chat else self.loaded.declared_stop_ids).keys()
