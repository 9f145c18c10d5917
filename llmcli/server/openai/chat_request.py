"""A chat request: its messages become a prompt, its fields the settings of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.engine.guided.grammar import Rule
from llmcli.errors import LlmcliError, UsageError
from llmcli.server.http.errors import ApiError
from llmcli.server.openai.fields import Fields
from llmcli.server.openai.forms import constrained, room_for
from llmcli.server.openai.settings import reply_form, sampling_params
from llmcli.server.openai.tools import ToolsAsked, read_tools
from llmcli.server.scheduler.work import ReplyRequest
from llmcli.server.service import Ready
from llmcli.text.chat.messages import Message, parse_messages
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.chat.reply_prompt import ReplyPrompt

_MOST_LOGPROBS = 20
_MOST_TOKENS = 1 << 31
# Arguments of a chat template that only the server sets.
_RESERVED = ("self", "messages", "add_generation_prompt")


@dataclass(frozen=True)
class ChatAsked:
    """A chat request that has been read."""

    reply: ReplyRequest
    model: str | None
    stream: bool
    include_usage: bool
    """Whether a stream ends with the numbers of tokens."""
    logprobs: bool
    token_ids: bool
    """Whether the ids of the tokens are returned too."""
    notes: tuple[str, ...]
    """Notes on how the template wrote the conversation."""
    tools: ToolsAsked | None = None
    """The tools that the reply may call."""


def read_chat(body: Mapping[str, Any], ready: Ready) -> ChatAsked:
    """Read the body of a chat request.

    Raises:
        ApiError: a field is wrong, or not supported.
        LlmcliError: the template cannot write the conversation, or it does not fit the context.
    """
    fields = Fields(body)
    model, stream = fields.text("model"), fields.flag("stream")
    options = fields.inner("stream_options")
    include_usage = options is not None and options.flag("include_usage")
    tools = read_tools(fields, ready.loaded)
    built, no_thinking = chat_prompt(fields, ready, tools)
    most = [fields.integer(name, 1, _MOST_TOKENS) for name in ("max_tokens", "max_completion_tokens")]
    params = sampling_params(fields, ready.loaded, max_tokens=most[0] if most[1] is None else most[1])
    logprobs, top = _logprobs(fields)
    rule = _form(reply_form(fields), tools)
    ignores_end, token_ids = fields.flag("ignore_eos"), fields.flag("return_token_ids")
    fields.flag("timings_per_token")
    fields.flag("include_reasoning", True)
    fields.refuse_unless("n", 1, why="one reply is given")
    fields.refuse_unless("echo", False, why="the reply alone is returned")
    fields.refuse_unless("modalities", ["text"], why="only text is written")
    fields.end()
    room = room_for(built.ids, params, ready.scheduler.context_length)
    constraint, start = constrained(rule, ready.loaded, built.start, room=room, is_chat=True, no_thinking=no_thinking)
    reply = ReplyRequest(
        tuple(built.ids),
        params,
        is_chat=True,
        start=start,
        constraint=constraint,
        probabilities=logprobs,
        top=top,
        ignores_end=ignores_end,
    )
    return ChatAsked(reply, model, stream, include_usage, logprobs, token_ids, built.notes, tools)


def chat_prompt(fields: Fields, ready: Ready, tools: ToolsAsked | None) -> tuple[ChatPrompt, bool]:
    """The prompt of messages, and whether the reply is to have no thought."""
    loaded = ready.loaded
    if loaded.template is None:
        raise ApiError(f"{loaded.name} has no chat template; /v1/completions continues a text.", param="messages")
    messages = _messages(fields)
    variables, no_thinking = _variables(fields)
    if tools is not None:
        variables["tools"] = [dict(tool) for tool in tools.given]
    continues = fields.flag("continue_final_message")
    if not fields.flag("add_generation_prompt", not continues) and not continues:
        raise ApiError("The prompt always ends where a reply begins.", param="add_generation_prompt")
    asked = ReplyPrompt.make(
        loaded.tokenizer,
        loaded.template,
        messages,
        variables=variables,
        continue_last=continues,
        no_thinking=no_thinking,
    )
    try:
        return asked.built(), no_thinking
    except LlmcliError as error:
        raise ApiError(str(error), param="messages") from None


def _messages(fields: Fields) -> tuple[Message, ...]:
    try:
        return parse_messages(fields.value("messages"))
    except UsageError as error:
        raise ApiError(str(error), param="messages") from None


def _form(rule: Rule | None, tools: ToolsAsked | None) -> Rule | None:
    """The form of the reply: that of its answer, or of calls that it must have."""
    if tools is None or tools.rule is None:
        return rule
    if rule is not None:
        raise ApiError("A reply that must call a tool has no other form.", param="tool_choice")
    try:
        tools.rule.check()
    except UsageError as error:
        raise ApiError(str(error).replace("--json-schema", "The parameters of tools"), param="tools") from None
    return tools.rule


def _variables(fields: Fields) -> tuple[dict[str, object], bool]:
    """Further variables of the template, and whether thinking is turned off."""
    given = fields.value("chat_template_kwargs", {})
    if not isinstance(given, dict):
        raise fields.wrong("chat_template_kwargs", "an object", given)
    for name in _RESERVED:
        if name in given:
            raise ApiError(f"chat_template_kwargs cannot set {name}.", param="chat_template_kwargs")
    variables: dict[str, object] = dict(given)
    effort = fields.text("reasoning_effort")
    if effort == "none":
        return variables, True
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
    return variables, False


def _logprobs(fields: Fields) -> tuple[bool, int]:
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, _MOST_LOGPROBS)
    if top and not wanted:
        raise ApiError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return wanted, top or 0
