"""Parse the input lines of `llm batch`: prompts or conversations, each with its settings."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeAlias

from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.errors import UsageError
from llmcli.text.decode_bytes import text_from_bytes

if TYPE_CHECKING:
    from llmcli.commands.shared.options.prompt import PromptOptions
    from llmcli.text.chat.messages import Message
    from llmcli.text.chat.prompt_request import PromptRequest

Id: TypeAlias = str | int | float | None

_SETTINGS = tuple(field.name for field in fields(SamplingOptions))
_WHOLE = ("top_k", "seed", "max_tokens", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n")
_TEXTS = ("stop", "dry_sequence_breaker", "logit_bias")
_CONTINUE = "continue_final_message"
_KNOWN = ("id", "prompt", "messages", _CONTINUE, *_SETTINGS)
_UNSUPPORTED = {
    **dict.fromkeys(
        ("tools", "tool_choice", "functions", "parallel_tool_calls"), "tools cannot be offered to a model yet"
    ),
    **dict.fromkeys(("stream", "stream_options"), "each result is a whole line"),
    "n": "give the line several times",
}


@dataclass(frozen=True)
class Line:
    """One line of the input."""

    index: int
    """Its number among those that are not empty, from 0."""
    data: bytes

    def mark(self, settings: str) -> str:
        """A hash of this line and the settings, which identifies its result."""
        import hashlib

        return hashlib.sha256(settings.encode() + b"\0" + self.data.strip()).hexdigest()[:32]


@dataclass(frozen=True)
class BatchTask:
    """The parsed content of a line."""

    id: Id
    prompt: str | None
    messages: tuple[Message, ...]
    """The messages of a conversation; empty if there is a `prompt`."""
    continues: bool
    """Whether the reply continues the last message, which is the assistant's."""
    sampling: SamplingOptions

    def prompt_request(self, options: PromptOptions, variables: Mapping[str, object]) -> PromptRequest:
        """The prompt of the line; the system prompt of `options` is for conversations without one."""
        if self.prompt is not None:
            return options.request(self.prompt, variables)
        request = replace(options.request("", variables), messages=self.messages, continue_last=self.continues)
        return replace(request, system=None) if self.messages[0].role in ("system", "developer") else request


def split_lines(data: bytes) -> list[Line]:
    """Split into non-empty lines, in UTF-8 or another encoding with the line ends of ASCII."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    return [Line(index, line) for index, line in enumerate(lines)]


def parsed(line: Line) -> Mapping[str, object]:
    """Parse the JSON object on a line.

    Raises:
        UsageError: the line is not a JSON object.
    """
    try:
        value = json.loads(text_from_bytes(line.data, "The line"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The line is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError('The line is not a JSON object such as {"prompt": "Hello"}.')
    return value


def id_of(value: Mapping[str, object]) -> Id:
    """The "id" of a line, if it has one.

    Raises:
        UsageError: it is neither text nor number.
    """
    name = value.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int | float | None):
        raise UsageError('The "id" must be a text or a number.')
    return name


def name_of(line: Line) -> Id:
    """The "id" of a line; None if it has none, or is invalid."""
    try:
        return id_of(parsed(line))
    except UsageError:
        return None


def task(value: Mapping[str, object], sampling: SamplingOptions) -> BatchTask:
    """Make the task of a line's object; `sampling` has the settings that the line does not set.

    Raises:
        UsageError: a field is unknown, missing or of the wrong type, or a setting is invalid.
    """
    for name in value:
        if name in _UNSUPPORTED:
            raise UsageError(f"{name!r} is not supported: {_UNSUPPORTED[name]}.")
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_KNOWN)}."
            raise UsageError(f"There is no field {name!r}{hint}")
    if ("prompt" in value) == ("messages" in value):
        raise UsageError('A line needs either a "prompt" or "messages".')
    prompt = value.get("prompt")
    if "prompt" in value and (not isinstance(prompt, str) or not prompt):
        raise UsageError('The "prompt" must be a text that is not empty.')
    own = {name: _setting(name, value[name]) for name in _SETTINGS if value.get(name) is not None}
    sampling = replace(sampling, **own)  # type: ignore[arg-type]
    sampling.check()
    messages: tuple[Message, ...] = ()
    if "messages" in value:
        from llmcli.text.chat.messages import parse_messages

        messages = parse_messages(value["messages"])
    return BatchTask(
        id_of(value), prompt if isinstance(prompt, str) else None, messages, _continues(value, messages), sampling
    )


def _continues(value: Mapping[str, object], messages: Sequence[Message]) -> bool:
    """Whether the reply continues the last message: by default if it is the assistant's."""
    is_reply = bool(messages) and messages[-1].role == "assistant"
    wanted = value.get(_CONTINUE)
    if wanted is None:
        return is_reply
    if not isinstance(wanted, bool):
        raise UsageError(f'"{_CONTINUE}" must be true or false.')
    if wanted and not is_reply:
        raise UsageError(f'"{_CONTINUE}" needs "messages" of which the last is the assistant\'s.')
    return wanted


def _setting(name: str, value: object) -> object:
    if name == "logit_bias" and isinstance(value, dict):
        # The form of OpenAI's API: an object from token IDs to numbers.
        return [f"{token}{_number(name, bias):+}" for token, bias in value.items()]
    if name in _TEXTS:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            other = ", or an object of IDs and numbers" if name == "logit_bias" else ""
            raise UsageError(f'"{name}" must be a text or a list of texts{other}.')
        return texts
    if name == "stop_in_thinking":
        if not isinstance(value, bool):
            raise UsageError('"stop_in_thinking" must be true or false.')
        return value
    return _number(name, value)


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else int | float):
        raise UsageError(f'"{name}" must be a {"whole " if name in _WHOLE else ""}number.')
    return value
