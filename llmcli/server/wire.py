"""The command line's own protocol: requests and events as JSON lines over the private socket.

A client posts a `GenerateRequest` to `/internal/generate` and reads one JSON object per line until the connection ends:

- `{"event": "begin", ...}`: a `ReplyBegin`, once the prompt is encoded. Nothing comes before it but notes and errors.
- `{"event": "note", "text"}`: a sentence for stderr.
- `{"event": "progress", "done", "total"}`: tokens that have been read, of a long prompt or for the attention.
- `{"event": "prefill" | "step" | "finish", ...}`: the engine's events, with thoughts in `thinking`. A step also has
  `bytes`, which maps the ids of its token and candidates to their bytes, each written as a Latin-1 string. A step or
  finish with a thought or one of its marks has `raw`, the text before they were separated. A prefill has `can_end`,
  whether a way to complete the requested form is known. A finish has `complete`, whether a reply of a requested form
  has it, and `awaits_answer`, whether the reply ended in a thought.
- `{"event": "attention", "index", "row", "logprob"}`: after the finish, the attention of the step at `index`, if
  requested, and the log-probability of its token in the readable model, or null.
- `{"event": "record", "value"}`: after the finish, the record of the run, if requested.
- `{"event": "end"}`: the last line, if nothing failed.
- `{"event": "error", "message", "exit_code"}`: the last line, if something did.

`/internal/choices` and `/internal/score` answer with notes, progress, and `{"event": "result", "value", "bytes"}`: the
probabilities of given answers, after a `begin` with `may_think`, or the score of a text with the bytes of its tokens.
`llmcli.server.values` reads the value. `llm compare` uses two more. `/internal/continuation` answers a `ContinuedText`
with a `begin` whose value describes the model, and with the continuation as its result. `/internal/predictions` answers
a `PredictedText` with `{"event": "row", "value", "bytes": N}` for each token, after which come N bytes: the
log-probabilities of the whole vocabulary, as float32 in little-endian order. At most a few rows wait for the client.

A post to `/internal/cancel` with `{"id": ...}` ends the reply to the request with this `id`, as Ctrl-C does: its finish
follows, with the reason "interrupted". A reply whose connection is closed ends too.
Numbers keep every bit: JSON has the shortest decimal that gives the same float, and NaN and infinities as Python writes
them. This module imports neither torch nor the tokenizer, so that a client starts fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

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
from llmcli.errors import UsageError
from llmcli.text.chat.messages import Message, ToolCall
from llmcli.text.chat.prompt_request import PromptRequest
from llmcli.text.chat_template.json_text import json_text
from llmcli.text.reasoning import PLAIN

if TYPE_CHECKING:
    from llmcli.engine.guided.grammar import Rule

PROTOCOL = 1
"""Counts changes of the protocol that an older client or server would not understand."""

_Value = TypeVar("_Value")


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
    attention_by: Literal["token", "word", "line", "message"] | None = None
    """Compute attention after the reply, summed by "token", "word", "line" or "message"; None: do not."""
    context: int | None = None
    """The most tokens of prompt and reply together; None: what the server was started with."""
    session: str | None = None
    """A name for a chat: its replies continue from one KV cache, as those of one `llm chat` process do."""
    ids: tuple[int, ...] | None = None
    """The whole prompt as token ids, instead of what `prompt` says."""
    state: str = PLAIN
    """With `ids`, the state of the model's `ThinkingFormat` where the reply begins."""
    begun: tuple[int, ...] = ()
    """The first tokens of a reply to continue: they come as its first steps."""
    show_prompt: bool = False
    """Send the bytes of each token of the prompt."""
    record: bool = False
    """Send the record of the run after the reply."""
    id: str | None = None
    """A name for the reply, by which it can be ended; the client makes one that no other has."""
    saved: bool = False
    """Whether the command saves the reply in a conversation: then it is counted there."""


@dataclass(frozen=True)
class ScoredText:
    """A text to score: the body of a post to `/internal/score`."""

    text: str
    chat: bool = False
    """Whether it is a message in the chat template."""
    top: int = 0
    """The most probable tokens to give at each place."""
    window: int | None = None
    """The most tokens that are read at a time; None: the model's context."""
    readable: bool = False
    """Whether the readable model computes."""


@dataclass(frozen=True)
class ContinuedText:
    """A prompt that `llm compare` lets a model continue: the body of a post to `/internal/continuation`."""

    text: str = ""
    chat: bool = False
    """Whether it is a message in the chat template."""
    answer: bool = False
    """Whether it is a prompt to answer: then it is a message if the model has a chat template."""
    ids: tuple[int, ...] | None = None
    """The prompt as token ids, instead of `text`."""
    max_tokens: int = 64


@dataclass(frozen=True)
class PredictedText:
    """A text whose predictions `llm compare` needs: the body of a post to `/internal/predictions`."""

    ids: tuple[int, ...]
    start: int
    """The first token whose prediction is needed."""
    window: int | None = None
    """The most tokens that are read at a time; None: the model's context."""


@dataclass(frozen=True)
class ReplyBegin:
    """What is known before a reply begins."""

    model: str
    path: str
    """The name of the step that computes."""
    params: Mapping[str, object]
    """All fields of `SamplingParams` in effect, the drawn seed among them."""
    prompt_ids: tuple[int, ...]
    begun_ids: tuple[int, ...] | None
    """The last of `prompt_ids` that are the prefill; None if the prefill is not made of whole tokens."""
    given: str
    """The whole prefill, with which the text of the reply begins."""
    prefill: str
    """The part of the prefill that belongs to the answer."""
    prefill_thinking: str
    """The part that belongs to a thought."""
    state: str
    """The state of the model's `ThinkingFormat` where the reply begins."""
    is_chat: bool
    """Whether the chat template writes the prompt."""
    context_length: int
    notes: tuple[str, ...] = ()
    """Notes on how the template wrote the prompt."""
    prompt_pieces: tuple[tuple[str, bool], ...] | None = None
    """For each token of the prompt its bytes as a Latin-1 string, and whether it is a control token; if requested."""


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
    from llmcli.engine.guided.grammar import Rule

    try:
        prompt = _object(given.pop("prompt", None), '"prompt"')
        for name in ("before", "messages"):
            prompt[name] = tuple(_message(message) for message in prompt.get(name, ()))
        form = given.pop("form", None)
        if given.get("attention_by") not in (None, "token", "word", "line", "message"):
            raise ValueError(f"attention cannot be summed by {given['attention_by']!r}")
        return _made(
            GenerateRequest,
            given
            | {
                "prompt": _made(PromptRequest, prompt),
                "form": None if form is None else _made(Rule, _object(form, '"form"')),
                "logit_bias": tuple(given.get("logit_bias", ())),
                "begun": tuple(given.get("begun", ())),
                "ids": None if given.get("ids") is None else tuple(given["ids"]),
            },
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"The request is malformed: {error}.") from None


def read_text_request(kind: type[_Value], value: object) -> _Value:
    """The `ScoredText`, `ContinuedText` or `PredictedText` of a request.

    Raises:
        UsageError: it is not such a request.
    """
    given = _object(value, "The request")
    try:
        if given.get("ids") is not None:
            given["ids"] = tuple(given["ids"])
        return _made(kind, given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The request is malformed: {error}.") from None


def begin_value(begin: ReplyBegin) -> dict[str, object]:
    """`begin` as JSON values."""
    return {"event": "begin", **asdict(begin)}


def event_value(event: Event, token_bytes: Callable[[int], bytes], *, raw: str | None = None) -> dict[str, object]:
    """An event of the engine as JSON values; `raw` is its text before thoughts were separated."""
    if isinstance(event, Prefill):
        return {"event": "prefill", **asdict(event)}
    more = {} if raw in (None, event.text) else {"raw": raw}
    if isinstance(event, Finish):
        return {"event": "finish", **asdict(event), **more}
    # Most steps have nothing but their text: shorter lines cost less to write and read.
    value = {name: item for name, item in asdict(event).items() if item not in (None, "", ())}
    ids = dict.fromkeys([event.id, *(candidate.id for candidate in event.top)])
    return {
        "event": "step",
        **value,
        **more,
        "bytes": {str(token): token_bytes(token).decode("latin-1") for token in ids},
    }


def attention_value(index: int, row: AttentionRow, logprob: float | None = None) -> dict[str, object]:
    """The attention of the step at `index` as JSON values."""
    return {"event": "attention", "index": index, "row": asdict(row), "logprob": logprob}


def line(value: Mapping[str, object]) -> bytes:
    """JSON values as a line of UTF-8."""
    return (json_text(value) + "\n").encode()


class ReplyReader:
    """Reads the lines of a reply; keeps what is known about it beside its events."""

    def __init__(self) -> None:
        self.begin: ReplyBegin | None = None
        self.can_end: bool | None = None
        self.complete: bool | None = None
        self.awaits_answer = False
        self.raw_text = ""
        """The text of the last event with thoughts and their marks, as a saved conversation keeps it."""
        self.record: Mapping[str, object] | None = None
        self.ended = False
        """Whether the last line has come."""
        self._bytes: dict[int, bytes] = {}

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token or candidate of the events so far."""
        return self._bytes[token]

    def read(self, text: str | bytes) -> ReplyLine | None:
        """The value of one line; None for a record, which is kept, and for the end.

        Raises:
            ValueError, KeyError, TypeError: the line is not one of this protocol.
        """
        value = json.loads(text)
        kind = value.pop("event")
        match kind:
            case "begin":
                begun = value.pop("begun_ids")
                pieces = value.pop("prompt_pieces", None)
                value["prompt_ids"], value["notes"] = tuple(value["prompt_ids"]), tuple(value["notes"])
                self.begin = ReplyBegin(
                    begun_ids=None if begun is None else tuple(begun),
                    prompt_pieces=None if pieces is None else tuple((text, guarded) for text, guarded in pieces),
                    **value,
                )
                return self.begin
            case "note":
                return ReplyNote(value["text"])
            case "progress":
                return ReadProgress(value["done"], value["total"])
            case "prefill":
                self.can_end, self.raw_text = value.pop("can_end", None), ""
                return Prefill(**value)
            case "step":
                self.raw_text = value.pop("raw", value.get("text", ""))
                for token, data in value.pop("bytes").items():
                    self._bytes[int(token)] = data.encode("latin-1")
                top = tuple(SampledCandidate(**candidate) for candidate in value.pop("top", ()))
                return Step(**{"text": "", **value}, top=top)
            case "finish":
                self.complete, self.awaits_answer = value.pop("complete", None), value.pop("awaits_answer", False)
                self.raw_text = value.pop("raw", value["text"])
                return Finish(**{**value, "stats": Stats(**value["stats"])})
            case "attention":
                row = value["row"]
                read = tuple(Read(**each) for each in row.pop("read"))
                return StepAttention(value["index"], AttentionRow(**row, read=read), value["logprob"])
            case "record":
                self.record = value["value"]
                return None
            case "end":
                self.ended = True
                return None
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
    logprob: float | None = None
    """The log-probability (nats) of the token in the readable model, if known."""


@dataclass(frozen=True)
class ReplyFailure:
    """The reply failed: the message and the exit code of the error."""

    message: str
    exit_code: int


ReplyLine: TypeAlias = Event | ReplyBegin | StepAttention | ReplyNote | ReadProgress | ReplyFailure
"""What a line says."""


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
