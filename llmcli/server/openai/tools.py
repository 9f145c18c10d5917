"""The tools of a chat request: how the template gets them, and how calls in the reply are read."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.engine.guided.grammar import Rule
from llmcli.loaded_model import LoadedModel
from llmcli.server.http.errors import ApiError
from llmcli.server.openai.fields import Fields
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.tool_calls.forms import FORCED, CallForm, CallText
from llmcli.text.tool_calls.template_form import call_form

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_MOST_TOOLS = 512


@dataclass(frozen=True)
class ToolsAsked:
    """The tools that a reply may call."""

    given: tuple[Mapping[str, Any], ...]
    """The tools as the request gives them, which is how templates read them."""
    form: CallForm
    several: bool
    """Whether a reply can have more than one call."""
    rule: Rule | None
    """The form of a reply that must be calls; None if it may be text."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(tool["function"]["name"] for tool in self.given)


@dataclass(frozen=True)
class WrittenCall:
    """A call in a reply."""

    index: int
    id: str
    name: str
    arguments: str

    @classmethod
    def of(cls, call: CallText, index: int, form: CallForm) -> WrittenCall:
        """A call with a new id."""
        if form.id_length is not None:
            letters = string.ascii_letters + string.digits
            name = "".join(secrets.choice(letters) for _ in range(form.id_length))
        else:
            name = f"call_{secrets.token_hex(12)}"
        return cls(index, name, call.name, call.arguments)

    @property
    def value(self) -> dict[str, object]:
        """The call as chat completions have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def read_tools(fields: Fields, loaded: LoadedModel) -> ToolsAsked | None:
    """The tools that `fields` give; None if the reply is not to call any.

    Raises:
        ApiError: a field is wrong, or the model's template has no known form for tools.
    """
    choice, given = fields.value("tool_choice"), fields.value("tools")
    several = fields.flag("parallel_tool_calls", True)
    for name in ("functions", "function_call"):
        fields.refuse_unless(name, [], "none", "auto", why="tools and tool_choice are")
    tools = _tools(given)
    if choice == "none":
        return None
    if not tools:
        if choice not in (None, "auto"):
            raise ApiError("tool_choice needs tools.", param="tool_choice")
        return None
    form = None if loaded.template is None else call_form(loaded.template)
    if form is None or not _has_marks(form, loaded.tokenizer):
        raise ApiError(
            f"tools is not supported: the chat template of {loaded.name} writes no tools, or calls in a form that is "
            "not known.",
            param="tools",
        )
    rule = _rule(tools, choice, several=several)
    return ToolsAsked(tools, form if rule is None else _forced(form), several, rule)


def _has_marks(form: CallForm, tokenizer: Tokenizer) -> bool:
    """Whether the marks of a form can be seen in a reply: as text, or as one token each."""
    outer = [mark for mark in (form.opener, form.closer) if mark]
    return all(tokenizer.token_to_id(mark) is not None or not tokenizer.control_spans(mark) for mark in outer)


def _forced(form: CallForm) -> CallForm:
    return CallForm(None, None, FORCED.read, FORCED.begins, id_length=form.id_length)


def _tools(given: object) -> tuple[Mapping[str, Any], ...]:
    wrong = ApiError(
        'tools must be a list of {"type": "function", "function": {"name": ..., "parameters": {...}}}.', param="tools"
    )
    if given is None:
        return ()
    if not isinstance(given, list):
        raise wrong
    if len(given) > _MOST_TOOLS:
        raise ApiError(f"tools can have {_MOST_TOOLS} entries, not {len(given)}.", param="tools")
    for tool in given:
        if not isinstance(tool, dict):
            raise wrong
        if tool.get("type") != "function":
            raise ApiError(f"tools can have functions only, not {tool.get('type')!r}.", param="tools")
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong
        if not _NAME.fullmatch(function["name"]):
            raise ApiError(f"The name of a tool cannot be {function['name']!r}.", param="tools")
        if not isinstance(function.get("parameters"), dict | None):
            raise wrong
    return tuple(given)


def _rule(tools: tuple[Mapping[str, Any], ...], choice: object, *, several: bool) -> Rule | None:
    """The form of a reply that must call a tool: a JSON object, or a list of them."""
    if choice in (None, "auto"):
        return None
    if choice == "required":
        calls, definitions = _schemas(tools)
        more = {} if several else {"maxItems": 1}
        schema: dict[str, Any] = {"type": "array", "minItems": 1, **more, "items": {"anyOf": calls}}
    else:
        named = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
        name = named.get("name") if isinstance(named, dict) else None
        found = tuple(tool for tool in tools if tool["function"]["name"] == name)
        if name is None:
            raise ApiError(
                'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}.',
                param="tool_choice",
            )
        if not found:
            raise ApiError(f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice")
        (schema, *_), definitions = _schemas(found[:1])
    return Rule("json-schema", json.dumps(schema | ({"$defs": definitions} if definitions else {})))


def _schemas(tools: tuple[Mapping[str, Any], ...]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schema of a call of each tool, and the definitions that they refer to, which must be at the top."""
    calls, definitions = list[dict[str, Any]](), dict[str, Any]()
    for tool in tools:
        function = tool["function"]
        parameters = dict(function.get("parameters") or {"type": "object"})
        for name, value in (parameters.pop("$defs", None) or {}).items():
            if definitions.setdefault(name, value) != value:
                raise ApiError(f"Two tools define {name!r} differently.", param="tools")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return calls, definitions
