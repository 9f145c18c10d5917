"""Render a conversation by a chat template, and trace every piece of the result back to its source.

The template gets placeholders (single private-use characters) instead of untrusted text; where one is in the output,
the text is inserted, marked as untrusted. A template may inspect a message (for example to drop old reasoning), so
first whole messages are replaced, then smaller parts of them, until the result equals the rendering of the real
messages. The placeholders also show whether the template has written each message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from llmcli.errors import LlmcliError, UsageError
from llmcli.text.chat.messages import THOUGHT_FIELDS, Message, ToolCall
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.reasoning import TAGS
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment, without_surrogates

Part: TypeAlias = TextSegment | tuple[int, ...]
"""A piece of a prompt: text to encode, or token ids."""
_Shown: TypeAlias = Literal["whole", "edges", "plain"]
"""The part of a message that placeholders replace: all of it; both ends and spellings of control tokens; only these."""

# The marks around reasoning. In a reply of the model they are marks, and templates search for them.
_REASONING = re.compile("|".join(map(re.escape, (*TAGS, *TAGS.values()))))
# A list of typed parts as Python and JSON write it.
_PARTS = re.compile(r"\{['\"]type['\"]: ?['\"]text['\"], ?['\"]text['\"]: ")
# A text of at least this length is not in a rendering by chance.
_SIGNIFICANT = 24


@dataclass(frozen=True)
class Form:
    """The form in which a template gets the messages."""

    parts: frozenset[str] = frozenset()
    """The roles whose content is a list of typed parts; the content of other roles is a string."""
    arguments_as_text: bool = False
    """Whether the arguments of a tool call are a JSON string instead of a JSON value."""

    def content(self, role: str, text: str) -> object:
        """The content field of a message."""
        return [{"type": "text", "text": text}] if role in self.parts else text


@dataclass(frozen=True)
class Written:
    """The output of a template, and the parts of the conversation that it left out."""

    parts: list[Part]
    lost: frozenset[int]
    """Indices of messages whose text was left out, wholly or partly."""
    lost_calls: frozenset[int]
    """Indices of messages with tool calls whose names or arguments were left out."""
    lost_names: frozenset[int]
    """Indices of messages whose `name` was left out."""


@dataclass(frozen=True)
class _Filling:
    """The text that replaces a placeholder in the output."""

    text: str
    parts: tuple[Part, ...]
    trimmed: bool = False
    """Whether the template may trim it: true for a whole message, which the template sees as a single character."""
    owner: int | None = None
    """The index of the message it belongs to."""


class TemplateWriter:
    """Renders one conversation, and traces the text back to its sources."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        messages: Sequence[Message],
        template_args: Mapping[str, object],
        form: Form,
        *,
        continue_last: bool = False,
    ) -> None:
        """With `continue_last` the output ends with the text of the last message, not with the start of a reply."""
        self._tokenizer = tokenizer
        self._template = template
        self._messages = messages
        self._form = form
        present = _characters(
            [vars(message) | {"tool_calls": list(map(vars, message.tool_calls))} for message in messages]
        )
        present.update(template.source, _characters(template_args))
        self._free: Iterator[str] = (char for char in map(chr, range(0xF0000, 0xFFFFE)) if char not in present)
        # A placeholder after the last message's text, to find its end.
        self._end = next(self._free, "") if continue_last else ""
        self._fillings: dict[str, _Filling] = {}
        self._placeholders: dict[_Filling, str] = {}
        self._template_args = self._hidden_in(template_args)

    def written(self) -> Written:
        """Render the prompt, traced back to the messages as far as the template allows.

        Raises:
            UsageError: the template refuses the conversation, or does not write the message to continue.
            CheckpointError: the template fails.
        """
        plain: list[_Shown] = ["plain"] * len(self._messages)
        rendered = self._render(plain)
        expected = "".join(self._fillings[char].text if char in self._fillings else char for char in rendered)
        started = self._template.operations
        for shown in self._attempts(plain, expected):
            attempt, parts = self._traced(shown, expected)
            if parts is not None:
                return self._checked(parts, shown, attempt, expected)
            if self._template.operations - started > _MOST_OPERATIONS:
                break
        # Replace only spellings of control tokens, in the rendering that `expected` comes from.
        return self._checked(self._filled(rendered, expected) or [], plain, rendered, expected)

    def _attempts(self, plain: list[_Shown], expected: str) -> Iterator[list[_Shown]]:
        """Which parts of each message to replace by placeholders, from most to least."""
        whole: list[_Shown] = ["whole"] * len(plain)
        edges: list[_Shown] = ["edges"] * len(plain)
        yield whole
        for visible in _OFTEN_INSPECTED:
            seen = [visible(message) for message in self._messages]
            for others in (edges, plain):
                yield [other if see else hidden for see, hidden, other in zip(seen, whole, others, strict=True)]
        mixed = list(plain)
        started = self._template.operations
        for at in range(max(0, len(plain) - _TRIED_ONE_BY_ONE), len(plain)):
            if self._traced([*plain[:at], whole[at], *plain[at + 1 :]], expected)[1] is not None:
                mixed[at] = whole[at]
            if self._template.operations - started > _MOST_OPERATIONS:
                break
        yield mixed
        yield edges

    def _traced(self, shown: Sequence[_Shown], expected: str) -> tuple[str, list[Part] | None]:
        """The rendering with messages `shown` in this way, and the prompt if its text is `expected`, else None."""
        try:
            rendered = self._render(shown)
        except LlmcliError:
            # The template needs to see more of the text.
            return "", None
        return rendered, self._filled(rendered, expected)

    def _render(self, shown: Sequence[_Shown]) -> str:
        return self._rendered([self._dict(index, how) for index, how in enumerate(shown)])

    def _rendered(self, messages: list[dict[str, object]]) -> str:
        text = self._template.render(messages, add_generation_prompt=not self._end, **self._template_args)
        if not self._end:
            return text
        if self._end not in text:
            raise UsageError("The model's chat template does not write the last message, so it cannot be continued.")
        return text[: text.rindex(self._end)]

    def _dict(self, index: int, shown: _Shown) -> dict[str, object]:
        """A message as passed to the template."""
        message = self._messages[index]
        content = self._content(index, shown)
        if index == len(self._messages) - 1:
            content += self._end

        def label(text: str) -> str:
            """A name or an id with its placeholders."""
            return self._whole(text, index) if shown == "whole" else self._spans_hidden(text, index)

        result: dict[str, object] = {"role": message.role, "content": self._form.content(message.role, content)}
        if message.thinking:
            thinking = label(message.thinking)
            result |= dict.fromkeys(THOUGHT_FIELDS, thinking)
        if message.name:
            result["name"] = label(message.name)
        if message.tool_call_id:
            result["tool_call_id"] = label(message.tool_call_id)
        if message.tool_calls:
            result["tool_calls"] = [self._call(call, index, label) for call in message.tool_calls]
        return result

    def _call(self, call: ToolCall, index: int, label: Callable[[str], str]) -> dict[str, object]:
        arguments = call.arguments
        if self._form.arguments_as_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": label(call.name), "arguments": self._hidden(arguments, index)}
        return {**({"id": label(call.id)} if call.id else {}), "type": "function", "function": function}

    def _checked(self, parts: list[Part], shown: Sequence[_Shown], rendered: str, expected: str) -> Written:
        """`parts` of the output `rendered`, together with the parts of the messages that are missing in it."""
        indices = range(len(self._messages))
        squeezed = "" if all(how == "whole" for how in shown) else _squeezed(expected)
        return Written(
            parts,
            lost=frozenset(
                index for index in indices if not self._is_written(index, shown[index], rendered, expected, squeezed)
            ),
            lost_calls=frozenset(
                index for index in indices if not self._calls_written(index, shown[index], rendered, expected)
            ),
            lost_names=frozenset(
                index
                for index in indices
                if not self._label_written(self._messages[index].name, index, shown[index], rendered, expected)
            ),
        )

    def _is_written(self, index: int, shown: _Shown, rendered: str, expected: str, squeezed: str) -> bool:
        """Whether the whole text of a message is in the prompt; `squeezed` is the prompt without white space."""
        message = self._messages[index]
        if message.role in self._form.parts and self._shows_parts(expected):
            return False
        text = _without_thoughts(message)
        if not text.strip():
            return True
        if shown == "whole" or not _reasoning_spans(message):
            whole = self._content(index, "whole")
            if shown == "whole":
                return whole in rendered
            # The text is in the prompt; by chance only if it is short and the template does not write the message.
            if _squeezed(text) in squeezed and (len(text) >= _SIGNIFICANT or whole in self._shown_whole):
                return True
            ends = [char for char in self._content(index, "edges") if char in self._fillings]
            found = [end in self._shown_edges for end in ends]
            if any(found) or whole in self._shown_whole:
                return bool(ends) and found[0] and found[-1]
            # The template changes the text. Check that it writes a word of letters of the same length.
            word = f"zq{index}x"
            word *= -(-len(text) // len(word))
            return word in self._shown_words(index, word)
        return _squeezed(text) in squeezed

    def _shows_parts(self, expected: str) -> bool:
        """Whether the template has written a list of typed parts literally, as Python or JSON."""
        given = [self._template.source, *(message.content for message in self._messages)]
        return len(_PARTS.findall(expected)) > sum(len(_PARTS.findall(text)) for text in given)

    def _calls_written(self, index: int, shown: _Shown, rendered: str, expected: str) -> bool:
        """Whether the names and the strings in the arguments of a message's tool calls are in the prompt."""
        calls = self._messages[index].tool_calls
        texts = [text for call in calls for text in _texts_in(call.arguments)]
        return all(self._label_written(call.name, index, shown, rendered, expected) for call in calls) and all(
            text in expected or json.dumps(text, ensure_ascii=False)[1:-1] in expected for text in texts
        )

    def _label_written(self, label: str | None, index: int, shown: _Shown, rendered: str, expected: str) -> bool:
        """Whether a name or id of a message is in the prompt."""
        if not label:
            return True
        return self._whole(label, index) in rendered if shown == "whole" else label in expected

    @cached_property
    def _shown_whole(self) -> str:
        return self._traced(["whole"] * len(self._messages), "")[0]

    @cached_property
    def _shown_edges(self) -> str:
        return self._traced(["edges"] * len(self._messages), "")[0]

    def _shown_words(self, index: int, word: str) -> str:
        messages = [self._dict(other, "plain") for other in range(len(self._messages))]
        end = self._end if index == len(messages) - 1 else ""
        role = self._messages[index].role
        messages[index]["content"] = self._form.content(role, word + end)
        try:
            return self._rendered(messages)
        except LlmcliError:
            return ""

    def _filled(self, rendered: str, expected: str) -> list[Part] | None:
        """`rendered` with its placeholders replaced; None if the result is not the text `expected`."""
        pieces = re.split(f"([{re.escape(''.join(self._fillings))}])", rendered) if self._fillings else [rendered]
        if not expected.startswith(pieces[0]):
            return None
        parts: list[Part] = [TextSegment(pieces[0], trusted=True)]
        at = len(pieces[0])
        for char, literal in zip(pieces[1::2], pieces[2::2], strict=True):
            filling = self._fillings[char]
            text = filling.text
            if expected.startswith(text + literal, at):
                parts += filling.parts
            elif filling.trimmed:
                # With the end placeholder after the last message, the template trims only the beginning.
                for text in (filling.text.strip(), filling.text.lstrip()):
                    if expected.startswith(text + literal, at):
                        parts.append(TextSegment(text, trusted=False))
                        break
                else:
                    return None
            else:
                return None
            at += len(text)
            parts.append(TextSegment(literal, trusted=True))
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

    def _untrusted(self, text: str, owner: int | None) -> str:
        return self._placeholder(_Filling(text, (TextSegment(text, trusted=False),), owner=owner))

    def _content(self, index: int, shown: _Shown) -> str:
        """The text of a message with placeholders as `shown` says."""
        if shown == "whole":
            return self._content_whole(index)
        text = self._messages[index].content
        inner = text.strip()
        if shown == "plain" or not inner:
            return self._spans_hidden(text, index)
        # Also replace both ends, so that no spelling of a control token arises across them.
        start = text.index(inner)
        return self._spans_hidden(text, index, [(start, start + 1), (start + len(inner) - 1, start + len(inner))])

    def _content_whole(self, index: int) -> str:
        """A placeholder for the whole text of a message."""
        message = self._messages[index]
        text, ids = message.content, message.ids
        if not text:
            return text
        if ids and not any(map(self._tokenizer.is_silent, ids)) and self._tokenizer.decode(ids) == text:
            return self._placeholder(_Filling(text, (ids,), trimmed=True, owner=index))
        markers = _reasoning_spans(message)
        parts = tuple(TextSegment(text[a:b], trusted) for a, b, trusted in _cut(text, markers) if a < b)
        return self._placeholder(_Filling(text, parts, trimmed=not markers, owner=index))

    def _whole(self, text: str, owner: int) -> str:
        """A placeholder for a text other than the content of a message."""
        return self._placeholder(_Filling(text, (TextSegment(text, trusted=False),), trimmed=True, owner=owner))

    def _spans_hidden(self, text: str, owner: int, more: Sequence[tuple[int, int]] = ()) -> str:
        """A text of a message with placeholders for spellings of control tokens and for the spans `more`."""
        message = self._messages[owner]
        shown = _reasoning_spans(message) if text is message.content else []
        spans = [*self._tokenizer.control_spans(text), *more]
        if message.role == "assistant" and not message.has_marks:
            # In a reply that no model generated, reasoning marks are text, which the template must not find.
            spans += [match.span() for match in _REASONING.finditer(text)]
        spans = [span for span in spans if not any(start < span[1] and span[0] < end for start, end in shown)]
        return self._replaced(text, spans, owner)

    def _replaced(self, text: str, spans: Sequence[tuple[int, int]], owner: int | None) -> str:
        pieces = _cut(text, _merged(spans))
        return "".join(self._untrusted(text[a:b], owner) if hidden else text[a:b] for a, b, hidden in pieces)

    def _hidden(self, value: object, owner: int | None) -> object:
        """A JSON value with placeholders for spellings of control tokens in its strings."""
        if isinstance(value, str):
            text = without_surrogates(value)
            return self._replaced(text, self._tokenizer.control_spans(text), owner)
        if isinstance(value, Mapping):
            return {self._hidden(key, owner): self._hidden(item, owner) for key, item in value.items()}
        return [self._hidden(item, owner) for item in value] if isinstance(value, list | tuple) else value

    def _hidden_in(self, values: Mapping[str, object]) -> dict[str, object]:
        """Template variables with placeholders for spellings of control tokens in their strings."""
        return {name: self._hidden(value, None) for name, value in values.items()}


# A template may search a system message for settings, and may drop the reasoning of earlier replies.
_OFTEN_INSPECTED: tuple[Callable[[Message], bool], ...] = (
    lambda message: bool(_reasoning_spans(message)),
    lambda message: message.role == "system",
    lambda message: message.role == "system" or bool(_reasoning_spans(message)),
)
# Number of messages that are tried one at a time, each at the cost of one rendering.
_TRIED_ONE_BY_ONE = 64
# Limit of all renderings together: a slow template is not tried often.
_MOST_OPERATIONS = 2_000_000


def _reasoning_spans(message: Message) -> list[tuple[int, int]]:
    """Spans of the reasoning marks in a reply of the model."""
    if not message.has_marks:
        return []
    return [match.span() for match in _REASONING.finditer(message.content)]


def _without_thoughts(message: Message) -> str:
    """The text of a message without a reply's reasoning, which templates may drop."""
    spans = _reasoning_spans(message)
    if not spans:
        return message.content
    start, end = spans[-1]
    return "" if message.content[start:end] in TAGS else message.content[end:]


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _texts_in(value: object) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(key)
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """Split `text` at `spans`, which must not overlap: (start, end, whether the piece is one of them)."""
    at = 0
    for start, end in spans:
        yield at, start, False
        yield start, end, True
        at = end
    yield at, len(text), False


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`spans` sorted, with overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _characters(value: object) -> set[str]:
    """The set of characters of all strings in a JSON value."""
    return {char for text in _texts_in(value) for char in text}
