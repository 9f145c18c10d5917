"""The command line's own protocol: requests and events as JSON lines over the private socket.

A client posts a `GenerateRequest` to `/internal/generate` and reads one JSON object per line until the connection ends:

- `{"event": "begin", ...}`: a `ReplyBegin`, once the prompt is encoded. Nothing comes before it but notes and errors.
- `{"event": "note", "text"}`: a sentence for stderr.
- `{"event": "progress", "done", "total"}`: tokens of a long prompt that have been read.
- `{"event": "prefill" | "step" | "finish", ...}`: the engine's events, with thoughts in `thinking`. A step also has
  `bytes`, which maps the ids of its token and candidates to their bytes, each written as a Latin-1 string.
- `{"event": "attention", "index", "row"}`: after the last step, the attention of the step at `index`, if requested.
- `{"event": "error", "message", "exit_code"}`: the reply failed; the last line.

`finish` is the last line of a complete reply. It also has `complete`, whether a reply of a requested form has it, and
`awaits_answer`, whether the reply ended in a thought. Closing the connection ends the reply, as Ctrl-C does.
Numbers keep every bit: JSON has the shortest decimal that gives the same float, and NaN and infinities as Python writes
them. This module imports neither torch nor the tokenizer, so that a client starts fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from llmcli.engine.events import (
    AttentionRow,
    Event,
    Finish,
    Prefill,
    Read,
    SampledCandidate,
    Stats,
    Step,
)
from llmcli.engine.guided.grammar import Rule
from llmcli.errors import UsageError
from llmcli.text.chat.messages import Message, ToolCall
from llmcli.text.chat_template.json_text import json_text

PROTOCOL = 1
"""Counts changes of the protocol that an older client or server would not understand."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class PromptRequest:
    """The prompt of a reply, as the prompt options of a command describe it."""

    text: str
    """The user's message, the text to continue, or the text before a gap."""
    before: tuple[Message, ...] = ()
    """The conversation before the message."""
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


@dataclass(frozen=True)
class GenerateRequest:
    """One reply to generate."""

    prompt: PromptRequest
    settings: Mapping[str, object] = field(default_factory=dict)
    """Fields of `SamplingParams` that the user gave, without `logit_bias`; the model recommends the others."""
    logit_bias: tuple[str, ...] = ()
    """Values of `--logit-bias`, such as "15043+1"."""
    form: Rule | None = None
    probabilities: bool = False
    top: int = 0
    attention_by: str | None = None
    """Compute attention after the reply, summed by "token", "word", "line" or "message"; None: do not."""
    context: int | None = None
    """The most tokens of prompt and reply together; None: what the server was started with."""
    session: str | None = None
    """A name for a chat: its replies continue from one KV cache, as those of one `llm chat` process do."""


@dataclass(frozen=True)
class ReplyBegin:
    """What the server knows before the reply begins."""

    model: str
    path: str
    """The name of the step that computes."""
    params: Mapping[str, object]
    """All fields of `SamplingParams` in effect, the drawn seed among them."""
    prompt_ids: tuple[int, ...]
    begun_ids: tuple[int, ...] | None
    """The last of `prompt_ids` that are the prefill; None if the prefill is not made of whole tokens."""
    prefill: str
    """The part of the prefill that belongs to the answer."""
    prefill_thinking: str
    """The part that belongs to a thought."""
    state: str
    """The state of the model's `ThinkingFormat` where the reply begins."""
    is_chat: bool
    context_length: int
    notes: tuple[str, ...] = ()
    """Notes on how the template wrote the prompt."""
    can_end: bool | None = None
    """Whether a way to complete the requested form is known; None without a form."""


def request_line(request: GenerateRequest) -> str:
    """`request` as JSON."""
    return json_text({"protocol": PROTOCOL, **asdict(request)})


def read_request(value: object) -> GenerateRequest:
    """The inverse of `request_line`, from parsed JSON.

    Raises:
        UsageError: it is not such a request, or of another version of the protocol.
    """
    given = _object(value, "The request")
    protocol = given.pop("protocol", None)
    if protocol != PROTOCOL:
        raise UsageError(f"The request has protocol {protocol!r}, but this server understands {PROTOCOL}.")
    try:
        prompt = _object(given.pop("prompt", None), '"prompt"')
        prompt["before"] = tuple(_message(message) for message in prompt.get("before", ()))
        form = given.pop("form", None)
        return _made(
            GenerateRequest,
            given
            | {
                "prompt": _made(PromptRequest, prompt),
                "form": None if form is None else _made(Rule, _object(form, '"form"')),
                "logit_bias": tuple(given.get("logit_bias", ())),
            },
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"The request is malformed: {error}.") from None


def begin_value(begin: ReplyBegin) -> dict[str, object]:
    """`begin` as JSON values."""
    return {"event": "begin", **asdict(begin)}


def event_value(event: Event, token_bytes: Callable[[int], bytes]) -> dict[str, object]:
    """An event of the engine as JSON values."""
    if isinstance(event, Prefill):
        return {"event": "prefill", **asdict(event)}
    if isinstance(event, Finish):
        return {"event": "finish", **asdict(event)}
    # Most steps have nothing but their text: shorter lines cost less to write and read.
    value = {name: item for name, item in asdict(event).items() if item not in (None, "", ())}
    ids = dict.fromkeys([event.id, *(candidate.id for candidate in event.top)])
    return {"event": "step", **value, "bytes": {str(token): token_bytes(token).decode("latin-1") for token in ids}}


def attention_value(index: int, row: AttentionRow) -> dict[str, object]:
    """The attention of the step at `index` as JSON values."""
    return {"event": "attention", "index": index, "row": asdict(row)}


def line(value: Mapping[str, object]) -> bytes:
    """JSON values as a line of UTF-8."""
    return (json_text(value) + "\n").encode()


class ReplyReader:
    """Reads the lines of a reply; keeps what is known about it beside its events."""

    def __init__(self) -> None:
        self.begin: ReplyBegin | None = None
        self.complete: bool | None = None
        self.awaits_answer = False
        self._bytes: dict[int, bytes] = {}

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token or candidate of the events so far."""
        return self._bytes[token]

    def read(self, text: str | bytes) -> Event | ReplyBegin | StepAttention | ReplyNote | ReadProgress | ReplyFailure:
        """The value of one line.

        Raises:
            ValueError, KeyError, TypeError: the line is not one of this protocol.
        """
        value = json.loads(text)
        kind = value.pop("event")
        match kind:
            case "begin":
                begun = value.pop("begun_ids")
                value["prompt_ids"], value["notes"] = tuple(value["prompt_ids"]), tuple(value["notes"])
                self.begin = ReplyBegin(begun_ids=None if begun is None else tuple(begun), **value)
                return self.begin
            case "note":
                return ReplyNote(value["text"])
            case "progress":
                return ReadProgress(value["done"], value["total"])
            case "prefill":
                return Prefill(**value)
            case "step":
                for token, data in value.pop("bytes").items():
                    self._bytes[int(token)] = data.encode("latin-1")
                top = tuple(SampledCandidate(**candidate) for candidate in value.pop("top", ()))
                return Step(**{"text": "", **value}, top=top)
            case "finish":
                self.complete, self.awaits_answer = value.pop("complete", None), value.pop("awaits_answer", False)
                return Finish(**{**value, "stats": Stats(**value["stats"])})
            case "attention":
                row = value["row"]
                read = tuple(Read(**each) for each in row.pop("read"))
                return StepAttention(value["index"], AttentionRow(**row, read=read))
            case "error":
                return ReplyFailure(value["message"], value["exit_code"])
            case _:
                raise ValueError(f"unknown event {kind!r}")


@dataclass(frozen=True)
class ReplyNote:
    """A sentence for stderr."""

    text: str


@dataclass(frozen=True)
class ReadProgress:
    """How much of a long prompt has been read, in tokens."""

    done: int
    total: int


@dataclass(frozen=True)
class StepAttention:
    """The attention of the step with this index."""

    index: int
    row: AttentionRow

    def on(self, steps: Sequence[Step]) -> list[Step]:
        """`steps` with the attention of the one that it belongs to."""
        return [replace(step, attention=self.row) if step.index == self.index else step for step in steps]


@dataclass(frozen=True)
class ReplyFailure:
    """The reply failed: the message and the exit code of the error."""

    message: str
    exit_code: int


def _message(value: object) -> Message:
    given = _object(value, "A message")
    ids, calls = given.pop("ids", None), given.pop("tool_calls", ())
    return _made(
        Message,
        given
        | {
            "ids": None if ids is None else tuple(ids),
            "tool_calls": tuple(_made(ToolCall, _object(call, "A tool call")) for call in calls),
        },
    )


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} must be a JSON object.")
    return dict(value)


def _made(kind: type[_Value], given: Mapping[str, Any]) -> _Value:
    """The dataclass `kind` with the fields `given`, whose simple types are checked."""
    types = {each.name: str(each.type) for each in fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in types:
            raise TypeError(f"there is no field {name!r}")
        allowed = [_SIMPLE[part] for part in types[name].split(" | ") if part in _SIMPLE]
        if allowed and len(allowed) == len(types[name].split(" | ")) and type(value) not in allowed:
            raise TypeError(f"{name!r} must be {types[name]}, not {value!r}")
    return kind(**given)


_SIMPLE: dict[str, type] = {"str": str, "bool": bool, "int": int, "None": type(None)}
