"""From a conversation to the ids of a prompt.

The template writes one string, in which its own markers must become control tokens and nothing else may. So the
template is shown single private-use characters in place of untrusted text; where one comes out, that text goes in,
marked as untrusted. A template may look into a message (to drop old reasoning, say), so this is tried with whole
messages first, then with less and less of them hidden, until the result is what the template makes of the real
messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from llmcli.errors import LlmcliError, UsageError
from llmcli.text.guarded import Segment, without_surrogates
from llmcli.text.template import ChatTemplate
from llmcli.text.thinking import TAGS, ThinkingFormat, split_thinking
from llmcli.text.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""The roles a message can have. Templates build control tokens from roles, so no others are let in."""

# What models put around their reasoning. In a reply these are the model's own, and templates look for them.
_REASONING = re.compile("|".join(map(re.escape, (*TAGS, *TAGS.values()))))


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    ids: tuple[int, ...] | None = None
    """For a reply, the ids the model generated: they take the place of its text, and the KV cache stays valid."""


Part: TypeAlias = Segment | tuple[int, ...]
"""A piece of a prompt: text to encode, or ids as they are."""


def encode_raw(tokenizer: Tokenizer, text: str, *, control_tokens: bool = False) -> list[int]:
    """The ids of a text to continue as it is, with the tokenizer's own beginning.

    With `control_tokens` what spells a control token is one.
    """
    return tokenizer.encode(text, control_tokens=control_tokens)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    prefill: str = "",
    template_args: Mapping[str, object] | None = None,
) -> list[int]:
    """The ids of a conversation as `template` writes it, up to where the reply begins, and of the reply's `prefill`.

    Only the template's own text yields control tokens. No BOS is added: the template writes it or does without.

    Raises:
        UsageError: a role that is none, or a conversation that the template refuses.
        CheckpointError: the template fails.
    """
    for message in messages:
        if message.role not in ROLES:
            raise UsageError(f"A message has the role {message.role!r}; known roles are {', '.join(ROLES)}.")
    messages = [
        replace(message, content=without_surrogates(_content(message, tokenizer.thinking))) for message in messages
    ]
    parts = _Writer(tokenizer, template, messages, template_args or {}).parts()
    return _encode(tokenizer, [*parts, Segment(prefill, trusted=False)])


def _content(message: Message, form: ThinkingFormat) -> str:
    """What the template is to have of `message`: not the thoughts, if it would write marks of its own around them."""
    if message.role != "assistant" or form.is_content:
        return message.content
    return split_thinking(message.content, form)[1]


@dataclass(frozen=True)
class _Filling:
    """What goes in where a placeholder comes out."""

    text: str
    parts: tuple[Part, ...]
    trimmed: bool = False
    """Whether the template may have trimmed it: a whole message, which it sees as a single character."""


class _Writer:
    """Has the template write one conversation, keeping track of where its text comes from."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        messages: Sequence[Message],
        template_args: Mapping[str, object],
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._messages = messages
        present = {char for message in messages for char in message.content}
        present.update(template.source, _characters(template_args))
        self._free: Iterator[str] = (char for char in map(chr, range(0xF0000, 0xFFFFE)) if char not in present)
        self._fillings: dict[str, _Filling] = {}
        self._placeholders: dict[_Filling, str] = {}
        self._template_args = self._hidden_in(template_args)

    def parts(self) -> list[Part]:
        """The prompt, with as much of it traced back to the messages as the template allows."""
        plain = [self._spans_hidden(message) for message in self._messages]
        rendered = self._render(plain)
        expected = "".join(self._fillings[char].text if char in self._fillings else char for char in rendered)
        whole = [self._hidden(message) for message in self._messages]
        started = self._template.operations
        for contents in self._attempts(whole, plain, expected):
            parts = self._written(contents, expected)
            if parts is not None:
                return parts
            if self._template.operations - started > _MOST_OPERATIONS:
                break
        # Only what spells control tokens is hidden, in the very rendering that `expected` comes from.
        return self._filled(rendered, expected) or []

    def _attempts(self, whole: list[str], plain: list[str], expected: str) -> Iterator[list[str]]:
        """Contents to show to the template, from those that hide most of the messages to those that hide least."""
        yield whole
        edges = [self._edges_hidden(message) for message in self._messages]
        for visible in _OFTEN_LOOKED_INTO:
            seen = [visible(message) for message in self._messages]
            for others in (edges, plain):
                yield [other if see else hidden for see, hidden, other in zip(seen, whole, others, strict=True)]
        mixed = list(plain)
        started = self._template.operations
        for at in range(max(0, len(plain) - _LOOKED_INTO_ONE_BY_ONE), len(plain)):
            if self._written([*plain[:at], whole[at], *plain[at + 1 :]], expected) is not None:
                mixed[at] = whole[at]
            if self._template.operations - started > _MOST_OPERATIONS:
                break
        yield mixed
        yield edges

    def _written(self, contents: Sequence[str], expected: str) -> list[Part] | None:
        """What the template makes of `contents`, if that is the text `expected`."""
        try:
            return self._filled(self._render(contents), expected)
        except LlmcliError:
            # The template wants to see more than it was shown.
            return None

    def _render(self, contents: Sequence[str]) -> str:
        pairs = zip(self._messages, contents, strict=True)
        messages = [{"role": message.role, "content": content} for message, content in pairs]
        return self._template.render(messages, add_generation_prompt=True, **self._template_args)

    def _filled(self, rendered: str, expected: str) -> list[Part] | None:
        """`rendered` with the placeholders filled in; None if that is not the text `expected`."""
        pieces = re.split(f"([{re.escape(''.join(self._fillings))}])", rendered) if self._fillings else [rendered]
        if not expected.startswith(pieces[0]):
            return None
        parts: list[Part] = [Segment(pieces[0], trusted=True)]
        at = len(pieces[0])
        for char, literal in zip(pieces[1::2], pieces[2::2], strict=True):
            filling = self._fillings[char]
            if expected.startswith(filling.text + literal, at):
                parts += filling.parts
                at += len(filling.text)
            elif filling.trimmed and expected.startswith(filling.text.strip() + literal, at):
                parts.append(Segment(filling.text.strip(), trusted=False))
                at += len(filling.text.strip())
            else:
                return None
            parts.append(Segment(literal, trusted=True))
            at += len(literal)
        return parts if at == len(expected) else None

    def _placeholder(self, filling: _Filling) -> str:
        if filling not in self._placeholders:
            char = next(self._free, None)
            if char is None:
                raise UsageError("The conversation has too many texts that spell control tokens.")
            self._placeholders[filling] = char
            self._fillings[char] = filling
        return self._placeholders[filling]

    def _untrusted(self, text: str) -> str:
        return self._placeholder(_Filling(text, (Segment(text, trusted=False),)))

    def _hidden(self, message: Message) -> str:
        """A placeholder for the whole message."""
        text, ids = message.content, message.ids
        if not text:
            return text
        if ids and not any(map(self._tokenizer.is_silent, ids)) and self._tokenizer.decode(ids) == text:
            return self._placeholder(_Filling(text, (ids,), trimmed=True))
        markers = _reasoning_spans(message)
        parts = tuple(Segment(text[a:b], trusted) for a, b, trusted in _cut(text, markers) if a < b)
        return self._placeholder(_Filling(text, parts, trimmed=not markers))

    def _edges_hidden(self, message: Message) -> str:
        """Besides what spells control tokens, hide the ends, so that no such spelling arises across them."""
        text = message.content
        inner = text.strip()
        if not inner:
            return text
        start = text.index(inner)
        return self._spans_hidden(message, [(start, start + 1), (start + len(inner) - 1, start + len(inner))])

    def _spans_hidden(self, message: Message, more: Sequence[tuple[int, int]] = ()) -> str:
        """The message with placeholders where it spells control tokens, and at `more` places."""
        text = message.content
        shown = _reasoning_spans(message)
        spans = [
            span
            for span in [*self._tokenizer.control_spans(text), *more]
            if not any(start < span[1] and span[0] < end for start, end in shown)
        ]
        return self._replaced(text, spans)

    def _replaced(self, text: str, spans: Sequence[tuple[int, int]]) -> str:
        pieces = _cut(text, _merged(spans))
        return "".join(self._untrusted(text[a:b]) if hidden else text[a:b] for a, b, hidden in pieces)

    def _hidden_in(self, values: Mapping[str, object]) -> dict[str, object]:
        """Template variables, with placeholders where strings in them spell control tokens."""

        def hide(value: object) -> object:
            if isinstance(value, str):
                text = without_surrogates(value)
                return self._replaced(text, self._tokenizer.control_spans(text))
            if isinstance(value, Mapping):
                return {key: hide(item) for key, item in value.items()}
            return [hide(item) for item in value] if isinstance(value, list | tuple) else value

        return {name: hide(value) for name, value in values.items()}


# A template may look for settings in a system message, and it may drop the reasoning of earlier replies.
_OFTEN_LOOKED_INTO: tuple[Callable[[Message], bool], ...] = (
    lambda message: bool(_reasoning_spans(message)),
    lambda message: message.role == "system",
    lambda message: message.role == "system" or bool(_reasoning_spans(message)),
)
# How many messages are tried one at a time, each at the cost of writing the conversation once.
_LOOKED_INTO_ONE_BY_ONE = 64
# What trying may cost: a template that takes long for one rendering is not asked for many.
_MOST_OPERATIONS = 2_000_000


def _reasoning_spans(message: Message) -> list[tuple[int, int]]:
    if message.role != "assistant":
        return []
    return [match.span() for match in _REASONING.finditer(message.content)]


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """The pieces of `text` in order, as (start, end, whether it is one of `spans`), which must not overlap."""
    at = 0
    for start, end in spans:
        yield at, start, False
        yield start, end, True
        at = end
    yield at, len(text), False


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`spans` in order, overlapping ones joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _characters(value: object) -> set[str]:
    """Every character of the strings in a template variable."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return {char for item in value for char in _characters(item)} if isinstance(value, list | tuple) else set()


def _encode(tokenizer: Tokenizer, parts: Sequence[Part]) -> list[int]:
    """The ids of `parts`: neighbouring texts as one."""
    ids: list[int] = []
    texts: list[Segment] = []
    for part in parts:
        if isinstance(part, Segment):
            texts.append(part)
            continue
        _drop_overlap(tokenizer, texts, part)
        ids += tokenizer.encode_segments(texts, continuation=bool(ids))
        ids += part
        texts = []
    return ids + tokenizer.encode_segments(texts, continuation=bool(ids))


def _drop_overlap(tokenizer: Tokenizer, texts: list[Segment], ids: tuple[int, ...]) -> None:
    """Take away the space before a reply that its first token brings along."""
    if texts and tokenizer.token_bytes(ids[0]).startswith(b" ") and not tokenizer.decode(ids).startswith(" "):
        texts[-1] = replace(texts[-1], text=texts[-1].text.removesuffix(" "))
