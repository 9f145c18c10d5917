"""The form in which a chat template writes tool calls, found by letting it write one.

A form is the template's if reading what the template writes gives the same call. For a form that no family is known
for, the marks are what the template writes before and after the JSON of the call (the way of llama.cpp,
docs/autoparser.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from llmcli.errors import LlmcliError
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tool_calls.forms import HERMES, LLAMA, MISTRAL, CallForm, CallText, calls_in, objects

_PROBE = CallText("probe_name", '{"probe_key": "probe_value"}')
_TEXT = "probe text"
_USER = {"role": "user", "content": "Hi"}
_TOOLS = [{"type": "function", "function": {"name": _PROBE.name, "description": "x", "parameters": {"type": "object"}}}]


@lru_cache(maxsize=4)
def call_form(template: ChatTemplate) -> CallForm | None:
    """The form in which a template writes tool calls; None if it reads no tools, or writes an unknown form.

    Raises:
        CheckpointError: the template is not valid Jinja.
    """
    if "tools" not in template.variables:
        return None
    for arguments in (json.loads(_PROBE.arguments), _PROBE.arguments):
        try:
            written, is_whole = _written(template, arguments)
        except LlmcliError:
            continue
        if (form := _form_of(written, is_whole=is_whole)) is not None:
            return form
    return None


def _written(template: ChatTemplate, arguments: object) -> tuple[str, bool]:
    """The text of a message that is one call, and whether it is known where the text begins and ends."""
    # Mistral's templates refuse ids of other lengths.
    call = {"id": "probe0001", "type": "function", "function": {"name": _PROBE.name, "arguments": arguments}}
    called = _message(template, {"content": "", "tool_calls": [call]})
    begin, found, end = _message(template, {"content": _TEXT}).partition(_TEXT)
    begin, end = begin.rstrip(), end.strip()
    is_whole = bool(found) and called.startswith(begin)
    if is_whole:
        called = called.removeprefix(begin)
    return called.strip().removesuffix(end).strip(), is_whole


def _message(template: ChatTemplate, message: Mapping[str, object]) -> str:
    """What a template writes for a message of the assistant."""
    before = template.render([_USER], add_generation_prompt=False, tools=_TOOLS)
    whole = template.render([_USER, {"role": "assistant", **message}], add_generation_prompt=False, tools=_TOOLS)
    same = next((at for at, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(before))
    return whole[same:]


def _form_of(written: str, *, is_whole: bool) -> CallForm | None:
    """The form in which a text is the probe."""
    for form in (HERMES, MISTRAL):
        _, opener, body = written.partition(form.opener or "")
        if opener and _is_probe(form, body.partition(form.closer)[0] if form.closer else body):
            return form
    if not is_whole:
        return None
    if written.startswith("{"):
        return LLAMA if _is_probe(LLAMA, written) else None
    for at, char in enumerate(written):
        if char not in "{[":
            continue
        for end in range(at, len(written) + 1):
            if written[end - 1 : end] in ("}", "]") and calls_in(LLAMA, written[at:end]) == [_PROBE]:
                return CallForm(written[:at].strip(), written[end:].strip() or None, objects)
    return None


def _is_probe(form: CallForm, body: str) -> bool:
    """Whether a text, or its beginning, is the probe: what ends a message may not be known."""
    ends = [at + 1 for at, char in enumerate(body) if char in "}]"]
    return any(calls_in(form, body[:end]) == [_PROBE] for end in ends)
