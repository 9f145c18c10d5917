"""Build the token ids of a prompt from a conversation.

The template writes one string, in which its own markers, and nothing else, must become control tokens; `render` does
that. Templates also differ in their input: content as a string or as typed parts, with or without system prompt, tool
calls, reasoning. This module finds the form in which the template leaves nothing out, and refuses the conversation if
there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.text.chat.messages import (
    ROLES,
    TOOL_ROLES,
    Message,
    with_system_in_user,
    with_tools_as_text,
)
from llmcli.text.chat.render import Form, Part, TemplateWriter, Written
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.chat_template.variables import is_read, unread_note, with_kwargs_mapping
from llmcli.text.reasoning import TAGS, ReplyStart, ThinkingSplitter, split_thinking
from llmcli.text.reply_start import opening_tokens, prompt_end
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment, without_surrogates

__all__ = ["ROLES", "ChatPrompt", "Message", "build_chat", "encode_chat", "encode_raw"]

_SYSTEM_ROLES = ("system", "developer")
# The fields from which a template reads the reasoning of a reply, if not from its content.
_READS_THOUGHTS = re.compile(r"\breasoning_content\b")
_MAY_READ_THOUGHTS = re.compile(r"[.'\"](?:reasoning|thinking)\b")
# Variables that turn thinking off in templates: of Qwen, GLM, SmolLM; of DeepSeek, Granite, Kimi.
_THINKING_VARIABLES = ("enable_thinking", "thinking")
# Limit of all renderings together: a slow template is not tried in many forms.
_MOST_OPERATIONS = 4_000_000


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as token ids."""

    ids: list[int]
    notes: tuple[str, ...] = ()
    """Notes for the user about how the template wrote the conversation."""
    start: ReplyStart = field(default_factory=ReplyStart)
    """The state in which the reply begins: inside thinking, before it, or in the answer."""


def encode_raw(tokenizer: Tokenizer, text: str, *, control_tokens: bool = False) -> list[int]:
    """The ids of a raw text to continue, with the tokenizer's beginning (BOS).

    With `control_tokens`, spellings of control tokens become control tokens.
    """
    return tokenizer.encode(text, control_tokens=control_tokens)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    prefill: str = "",
    template_args: Mapping[str, object] | None = None,
    continue_last: bool = False,
    strict_system: bool = False,
) -> list[int]:
    """The ids of `build_chat`."""
    return build_chat(
        tokenizer,
        template,
        messages,
        prefill=prefill,
        template_args=template_args,
        continue_last=continue_last,
        strict_system=strict_system,
    ).ids


def build_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    prefill: str = "",
    template_args: Mapping[str, object] | None = None,
    continue_last: bool = False,
    strict_system: bool = False,
    no_thinking: bool = False,
) -> ChatPrompt:
    """Encode a conversation as `template` writes it, up to the beginning of the reply, and the reply's `prefill`.

    Only the template's own text becomes control tokens. No BOS is added, since the template writes it if needed. With
    `continue_last` the last message is a reply to continue: the ids end with its text. A system prompt that the
    template does not write is put before the user's next message, unless `strict_system` forbids it.

    `prefill` begins the answer: thinking that the template opens is closed before it, unless `prefill` has thinking
    marks itself. `no_thinking` turns thinking off by the template's variable if it has one, and closes thinking that is
    opened nevertheless.

    Raises:
        UsageError: an unknown role, a conversation that the template refuses, or with `strict_system` a system prompt
            that it does not write.
        CheckpointError: the template fails, or leaves out a part of the conversation.
    """
    for message in messages:
        if message.role not in ROLES:
            raise UsageError(f"A message has the role {message.role!r}; known roles are {', '.join(ROLES)}.")
    arguments = template_args or {}
    unthinking = [name for name in _THINKING_VARIABLES if no_thinking and is_read(template, name)]
    given = with_kwargs_mapping(template, {**dict.fromkeys(unthinking, False), **arguments})
    builder = _Builder(tokenizer, template, given, strict_system=strict_system)
    if continue_last:
        if not messages or messages[-1].role != "assistant":
            raise UsageError("Only a reply of the assistant can be continued, but the last message has another role.")
        if not messages[-1].content.strip() or messages[-1].tool_calls:
            raise UsageError("The last message is the assistant's but has no text to continue.")
    cleaned = [_cleaned(message, template) for message in messages]
    parts, notes, begun = builder.parts(cleaned, continue_last=continue_last)
    unread = unread_note(template, arguments)
    notes = [*notes, unread] if unread else notes
    if continue_last and not begun:
        # The template has written the reply, after the end of any thinking.
        ids, segments = None, [TextSegment(prefill, trusted=False)]
        start = ReplyStart("begin", cleaned[-1].content + prefill)
    else:
        ids = _encode(tokenizer, parts)
        segments, start, note = _begun_reply(
            tokenizer, prompt_end(tokenizer, ids), begun + prefill, no_thinking=no_thinking
        )
        notes = [*notes, note] if note else notes
        if no_thinking and not unthinking and start.state == "begin" and opening_tokens(tokenizer):
            notes.append(
                f"The chat template {template.name!r} has no variable that turns thinking off and does not open "
                "thinking, so it cannot be closed; the model may still think."
            )
    if ids is None or any(segment.text for segment in segments):
        ids = _encode(tokenizer, [*parts, *segments])
    return ChatPrompt(ids, tuple(notes), start)


def _begun_reply(
    tokenizer: Tokenizer, end: str, text: str, *, no_thinking: bool
) -> tuple[list[TextSegment], ReplyStart, str]:
    """Segments to add after a prompt that ends with `end`, so that the reply begins with `text`; its start; a note."""
    form = tokenizer.thinking
    state, segment = form.opened(end), TextSegment(text, trusted=False)
    marks_thought = any(part == "mark" and piece.strip() for part, piece in ThinkingSplitter(form, state).pieces(text))
    opening = form.answer_opening(end) if (text or no_thinking) and not marks_thought else ""
    if opening:
        return [TextSegment(opening, trusted=True), segment], ReplyStart("answer", text), ""
    note = ""
    if marks_thought and state.startswith("think"):
        note = "The prefill has thinking marks, so the thinking that the chat template opens is not closed."
    return [segment], ReplyStart(state, text), note


def _cleaned(message: Message, template: ChatTemplate) -> Message:
    """`message` in valid Unicode; the role developer becomes system for templates that do not know it."""
    role = "system" if message.role == "developer" and "developer" not in template.source else message.role
    thinking = None if message.thinking is None else without_surrogates(message.thinking)
    name = None if message.name is None else without_surrogates(message.name)
    calls = tuple(replace(call, name=without_surrogates(call.name)) for call in message.tool_calls)
    content = without_surrogates(message.content)
    return replace(message, role=role, content=content, thinking=thinking, name=name, tool_calls=calls)


@dataclass(frozen=True)
class _Version:
    """A conversation, possibly changed to fit a template, and the notes about the changes."""

    messages: Sequence[Message]
    system_moved: bool = False
    late_only: bool = False
    """Whether only system prompts after the beginning were moved."""
    tools_as_text: bool = False

    def notes(self, template: str) -> list[str]:
        notes = []
        if self.system_moved:
            where = " after the beginning" if self.late_only else ""
            notes.append(
                f"The chat template {template!r} does not write a system prompt{where}; it is put before the user's "
                "message."
            )
        if self.tools_as_text:
            notes.append(f"The chat template {template!r} has no form for tool calls; they are written as JSON text.")
        return notes


class _Builder:
    """Finds the form of a conversation that a template writes completely."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        arguments: Mapping[str, object],
        *,
        strict_system: bool,
    ) -> None:
        self._tokenizer, self._template, self._arguments = tokenizer, template, arguments
        self._strict_system = strict_system
        self._error: LlmcliError | None = None
        self._incomplete: tuple[Sequence[Message], Written] | None = None

    def parts(self, messages: Sequence[Message], *, continue_last: bool) -> tuple[list[Part], list[str], str]:
        """The prompt in the first form that leaves nothing out, notes, and a text that begins the reply."""
        messages = self._with_thoughts(messages)
        started = self._template.operations
        for version in self._versions(messages):
            found = self._whole(version, continue_last=continue_last)
            if found is not None:
                if version.system_moved and self._strict_system:
                    where = " after the beginning" if version.late_only else ""
                    raise UsageError(
                        f"The chat template {self._template.name!r} does not write a system prompt{where}. Without "
                        "--strict-system it is put before the user's message."
                    )
                return found.parts, version.notes(self._template.name) + self._notes(version.messages, found), ""
            if self._template.operations - started > _MOST_OPERATIONS or self._template.exhaustion:
                break
        if continue_last:
            return self._begun(messages)
        raise self._fault()

    def _begun(self, messages: Sequence[Message]) -> tuple[list[Part], list[str], str]:
        """Use the last message as the beginning of a new reply, for templates that cannot end with a reply."""
        error = self._fault()
        try:
            parts, notes, _ = self.parts(messages[:-1], continue_last=False)
        except LlmcliError:
            raise error from None
        return parts, notes, messages[-1].content

    def _versions(self, messages: Sequence[Message]) -> Iterator[_Version]:
        """The conversation unchanged, then without features that templates may not support."""
        systems = [index for index, message in enumerate(messages) if message.role in _SYSTEM_ROLES]
        has_tools = any(message.tool_calls or message.role in TOOL_ROLES for message in messages)
        given = _Version(messages)
        if any(message.role == "developer" for message in messages):
            yield given
            # The word "developer" in the template may have another meaning than a role.
            messages = [
                replace(message, role="system") if message.role == "developer" else message for message in messages
            ]
            given = _Version(messages)
        versions = [given]
        if has_tools:
            versions += [
                _Version(with_tools_as_text(messages, results=results), tools_as_text=True) for results in (False, True)
            ]
        yield from versions
        # First move only later system prompts, since a template may accept one at the beginning only.
        for which in dict.fromkeys((tuple(at for at in systems if at), tuple(systems))):
            for version in versions if which else ():
                moved = with_system_in_user(version.messages, which)
                if moved is not None:
                    yield replace(version, messages=moved, system_moved=True, late_only=0 in systems and 0 not in which)

    def _whole(self, version: _Version, *, continue_last: bool) -> Written | None:
        """The rendering of a version in the first form that leaves nothing out; None if there is none."""
        roles = sorted({message.role for message in version.messages})
        has_calls = any(message.tool_calls for message in version.messages)
        tried: set[Form] = set()
        forms = [Form()]
        started = self._template.operations
        while forms:
            form = forms.pop(0)
            if (
                form in tried
                or self._template.operations - started > _MOST_OPERATIONS
                or self._template.exhaustion is not None
            ):
                continue
            tried.add(form)
            try:
                written = TemplateWriter(
                    self._tokenizer,
                    self._template,
                    version.messages,
                    self._arguments,
                    form,
                    continue_last=continue_last,
                ).written()
            except LlmcliError as error:
                self._error = self._error or error
                if form == Form():
                    forms += [Form(parts) for parts in _some_of(roles)]
                    forms += [Form(arguments_as_text=True)] if has_calls else []
                continue
            lost = self._lost(version.messages, written)
            if not lost and not written.lost_calls:
                return written
            if self._incomplete is None:
                self._incomplete = version.messages, written
            if form == Form():
                forms += [Form(frozenset(lost)), Form(frozenset(roles))] if lost else []
                forms += [Form(arguments_as_text=True)] if written.lost_calls else []
        return None

    @staticmethod
    def _lost(messages: Sequence[Message], written: Written) -> set[str]:
        """The roles with text that is left out. Text next to a tool call is not counted, only noted."""
        return {messages[index].role for index in written.lost if not messages[index].tool_calls}

    @staticmethod
    def _notes(messages: Sequence[Message], written: Written) -> list[str]:
        notes = []
        if any(messages[index].tool_calls for index in written.lost):
            notes.append("The chat template leaves out the assistant's text next to a tool call.")
        if any(messages[index].role not in TOOL_ROLES for index in written.lost_names):
            notes.append('The chat template does not write the "name" of a message.')
        return notes

    def _fault(self) -> LlmcliError:
        """The error that explains why there is no prompt."""
        if self._incomplete is None:
            # A template that has exceeded its budget is not rendered again.
            earlier = self._error or self._template.exhaustion
            return earlier or CheckpointError(f"The chat template {self._template.name!r} writes no prompt.")
        messages, written = self._incomplete
        roles = self._lost(messages, written)
        if not roles:
            return UsageError(
                f"The chat template {self._template.name!r} leaves out tool calls and cannot be used with them."
            )
        if roles <= set(_SYSTEM_ROLES) and self._error is None:
            return UsageError(
                f"The chat template {self._template.name!r} does not write a system prompt, and there is no later user "
                "message to put it into."
            )
        left_out = " and ".join(f"the text of the {_SPEAKERS.get(role, role)}" for role in sorted(roles))
        return CheckpointError(
            f"The chat template {self._template.name!r} leaves out {left_out}. Give another with --chat-template, or "
            "continue the text as it is with --raw."
        )

    def _with_thoughts(self, messages: Sequence[Message]) -> list[Message]:
        """Put the reasoning of the model's own replies where the template reads it: a separate field or the content."""
        form = self._tokenizer.thinking
        apart = [_apart(message, self._tokenizer) for message in messages]
        if not form.is_content:
            # The template itself writes marks around the answer.
            return apart
        given = list(messages)
        thoughts = [after.thinking for before, after in zip(given, apart, strict=True) if before is not after]
        source = self._template.source
        certain = _READS_THOUGHTS.search(source) is not None
        if not thoughts or not (certain or _MAY_READ_THOUGHTS.search(source)):
            return given
        inside, beside = self._plain(given), self._plain(apart)
        if beside is None or (inside is not None and inside.split() == beside.split()):
            return given
        if inside is None or certain or any(thought and thought in beside for thought in thoughts):
            return apart
        return given

    def _plain(self, messages: Sequence[Message]) -> str | None:
        """Render the messages' texts, to examine the result; None if the template refuses them or fails."""
        plain: list[dict[str, object]] = []
        for message in messages:
            fields = {
                "reasoning_content": message.thinking,
                "reasoning": message.thinking,
                "thinking": message.thinking,
            }
            shown = {name: text for name, text in fields.items() if text}
            plain.append({"role": message.role, "content": message.content, **shown})
        try:
            return self._template.render(plain, add_generation_prompt=True, **self._arguments)
        except LlmcliError:
            return None


_SPEAKERS = {"system": "system prompt"}


def _some_of(roles: Sequence[str]) -> list[frozenset[str]]:
    """Subsets of the roles in a conversation: all, all but system prompts, then smaller ones."""
    others = [role for role in roles if role not in _SYSTEM_ROLES]
    smaller = [frozenset(some) for size in range(len(roles) - 1, 0, -1) for some in combinations(roles, size)]
    return list(dict.fromkeys([frozenset(roles), frozenset(others), *smaller]))


def _apart(message: Message, tokenizer: Tokenizer) -> Message:
    """Split a reply of the model into thinking and answer; return other messages unchanged."""
    form = tokenizer.thinking
    if not message.has_marks or message.thinking is not None:
        return message
    thought, answer = split_thinking(message.content, form)
    if form.marks_first and not thought:
        # The prompt had opened the thinking.
        ends = [(at, begin) for begin, end in TAGS.items() if (at := message.content.find(end)) >= 0]
        if ends:
            thought, answer = split_thinking(message.content, form, f"think {min(ends)[1]}")
    if not thought and answer == message.content:
        return message
    ids = _ids_at_the_end(message.ids or (), answer, tokenizer)
    return replace(message, content=answer, thinking=thought.strip() or None, ids=ids, is_reply=False)


def _ids_at_the_end(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """The last of `ids` that decode to `text`, so that the prefix cache still matches; None if there are none."""
    start, left = len(ids), len(text.encode())
    while start and left > 0:
        start -= 1
        left -= 0 if tokenizer.is_silent(ids[start]) else len(tokenizer.token_bytes(ids[start]))
    found = tuple(ids[start:])
    return found if found and tokenizer.decode(found) == text else None


def _encode(tokenizer: Tokenizer, parts: Sequence[Part]) -> list[int]:
    """Encode `parts`; adjacent texts are encoded together."""
    ids: list[int] = []
    texts: list[TextSegment] = []
    for part in parts:
        if isinstance(part, TextSegment):
            texts.append(part)
            continue
        _drop_overlap(tokenizer, texts, part)
        ids += tokenizer.encode_segments(texts, continuation=bool(ids))
        ids += part
        texts = []
    return ids + tokenizer.encode_segments(texts, continuation=bool(ids))


def _drop_overlap(tokenizer: Tokenizer, texts: list[TextSegment], ids: tuple[int, ...]) -> None:
    """Remove the space before a reply if its first token already includes it."""
    if texts and tokenizer.token_bytes(ids[0]).startswith(b" ") and not tokenizer.decode(ids).startswith(" "):
        texts[-1] = replace(texts[-1], text=texts[-1].text.removesuffix(" "))
