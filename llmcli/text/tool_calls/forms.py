"""The forms in which models write tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

_DECODER = json.JSONDecoder()
_NAME = re.compile(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*[\w\-]+\s*)?(?:\[ARGS\])?\s*")


@dataclass(frozen=True)
class CallText:
    """A tool call in a reply."""

    name: str
    arguments: str
    """The arguments as a JSON object."""


class NoCallError(Exception):
    """A text is not a tool call."""

    def __init__(self, *, unfinished: bool = False) -> None:
        """`unfinished`: it ends inside a string of JSON, so that a closer in the string is no closer."""
        super().__init__("no tool call")
        self.unfinished = unfinished


@dataclass(frozen=True)
class CallForm:
    """How a family of models writes tool calls."""

    opener: str | None
    """The mark before a call or a list of calls; None if calls are the whole reply."""
    closer: str | None
    """The mark after it; None if nothing but calls follows."""
    read: Callable[[str], list[CallText]]
    """The calls in the text between the marks; raises `NoCallError`."""
    begins: str = ""
    """Characters, one of which begins a reply that is calls without an opener; empty if there is none."""
    inner_marks: tuple[str, ...] = ()
    """Marks inside a call that may be control tokens."""
    id_length: int | None = None
    """The number of characters of an id, if the template accepts one length only."""

    @property
    def marks(self) -> frozenset[str]:
        """All marks: where one is a control token, decoded text lacks it."""
        return frozenset(mark for mark in (self.opener, self.closer, *self.inner_marks) if mark)


def _call(value: object) -> CallText:
    """A call from `{"name": ..., "arguments": {...}}`; Llama's models write "parameters"."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise NoCallError
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        # Some templates show arguments as a JSON text, which models imitate.
        arguments = _decoded(arguments, 0)[0]
    if not isinstance(arguments, dict):
        raise NoCallError
    return CallText(value["name"], json.dumps(arguments, ensure_ascii=False))


def _decoded(text: str, at: int) -> tuple[object, int]:
    """The JSON value at a place, and the place after it."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise NoCallError from None
    except ValueError as error:
        raise NoCallError(unfinished="Unterminated string" in str(error)) from None
    return value, end


def _one(text: str) -> list[CallText]:
    """One JSON object."""
    body = text.strip()
    value, end = _decoded(body, 0)
    if body[end:]:
        raise NoCallError
    return [_call(value)]


def objects(text: str) -> list[CallText]:
    """Calls that are JSON objects one after another, or lists of them.

    Raises:
        NoCallError: the text is anything else.
    """
    body, at, calls = text.strip(), 0, list[CallText]()
    while at < len(body):
        value, at = _decoded(body, at)
        calls += map(_call, value if isinstance(value, list) else [value])
        while at < len(body) and (body[at].isspace() or body[at] == ";"):
            at += 1
    if not calls:
        raise NoCallError
    return calls


def _named(text: str) -> list[CallText]:
    """Mistral's calls: a list of JSON objects, or each a name before its arguments."""
    body = text.strip()
    if body.startswith("["):
        return objects(body)
    calls = list[CallText]()
    for part in body.split("[TOOL_CALLS]"):
        found = _NAME.match(part)
        if found is None:
            raise NoCallError
        arguments, end = _decoded(part, found.end())
        if part[end:].strip() or not isinstance(arguments, dict):
            raise NoCallError
        calls.append(CallText(found[1], json.dumps(arguments, ensure_ascii=False)))
    return calls


HERMES = CallForm("<tool_call>", "</tool_call>", _one)
"""Hermes, Qwen 2.5 and 3, Granite 4: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""
MISTRAL = CallForm("[TOOL_CALLS]", None, _named, inner_marks=("[ARGS]", "[CALL_ID]"), id_length=9)
"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or `[TOOL_CALLS]name[ARGS]{...}`."""
LLAMA = CallForm("<|python_tag|>", None, objects, begins="{")
"""Llama 3: the whole reply is `{"name": ..., "parameters": {...}}`."""
FORCED = CallForm(None, None, objects, begins="{[")
"""A reply whose form is constrained to a call, or a list of calls."""


def calls_in(form: CallForm, body: str) -> list[CallText] | None:
    """The calls in the text between the marks; None if it is no call."""
    try:
        return form.read(body)
    except NoCallError:
        return None
