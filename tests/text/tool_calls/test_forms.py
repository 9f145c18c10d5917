"""A template shows the form of its calls, and every form reads what a template in it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tool_calls.forms import HERMES, LLAMA, MISTRAL, CallForm, objects
from llmcli.text.tool_calls.reader import ToolCallReader
from llmcli.text.tool_calls.template_form import call_form
from tests.support.text.tool_templates import TEMPLATES

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "Zürich", "days": 3, "why": 'a "quote" </tool_call> [TOOL_CALLS] }'}),
    ("stop", {}),
]
FORMS = {
    "hermes": HERMES,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral, newer": MISTRAL,
    "arguments as text": HERMES,
    "own marks": CallForm("<calls>", "</calls>", objects),
    "split marks": CallForm("<|user|>call<|system|>", None, objects),
    "unknown": None,
}


def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], special_tokens={})


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_a_template_shows_its_form(name: str, form: CallForm | None) -> None:
    assert call_form(template(name)) == form


def test_a_template_that_reads_no_tools_has_no_form() -> None:
    plain = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
    assert call_form(ChatTemplate(plain, special_tokens={})) is None


@pytest.mark.parametrize("name", ["hermes", "llama", "mistral", "arguments as text", "own marks"])
@pytest.mark.parametrize("piece", [1, 4, 1000])
def test_calls_that_a_template_writes_are_read(name: str, piece: int) -> None:
    form = FORMS[name]
    assert form is not None
    as_text = name == "arguments as text"
    calls = [
        {"id": "abcdefghi", "function": {"name": each, "arguments": json.dumps(given) if as_text else given}}
        for each, given in CALLS
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    written = template(name).render([message], add_generation_prompt=False)
    text = written.removeprefix("<|bos|><|assistant|>").removesuffix("<|end|>")
    reader = ToolCallReader(form, ["get_weather", "stop"])
    read = [reader.push(text[at : at + piece]) for at in range(0, len(text), piece)] + [reader.finish()]
    assert "".join(said for said, _ in read) == ""
    assert [(call.name, json.loads(call.arguments)) for _, found in read for call in found] == CALLS


def read(form: CallForm, text: str, piece: int = 1) -> tuple[str, list[tuple[str, str]]]:
    reader = ToolCallReader(form, ["f", "g"])
    parts = [reader.push(text[at : at + piece]) for at in range(0, len(text), piece)] + [reader.finish()]
    return "".join(said for said, _ in parts), [(call.name, call.arguments) for _, found in parts for call in found]


ONE = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize("piece", [1, 5, 1000])
@pytest.mark.parametrize(
    ("form", "text", "said", "names"),
    [
        (HERMES, f"Let me look.\n\n{ONE}\n{ONE}\n", "Let me look.", ["f", "f"]),
        (HERMES, f"{ONE} and so on", " and so on", ["f"]),
        (HERMES, ONE.removesuffix("</tool_call>"), "", ["f"]),
        (HERMES, "no call, < and <tool_ \n", "no call, < and <tool_ \n", []),
        (HERMES, "a\n<tool_call>{'name'}</tool_call>\n", "a\n<tool_call>{'name'}</tool_call>\n", []),
        (HERMES, '<tool_call>{"name": "f", "argum', '<tool_call>{"name": "f", "argum', []),
        (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None, []),
        (HERMES, '<tool_call>{"name": "f"}{"name": "g"}</tool_call>', None, []),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", ["f"]),
        (LLAMA, ' {"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", ["f", "g"]),
        (LLAMA, '<|python_tag|>{"name": "other", "parameters": {}}', "", ["other"]),
        (LLAMA, '{"name": "other", "parameters": {}}', None, []),
        (LLAMA, '{"answer": 42}', None, []),
        (LLAMA, 'It is {"name": "f", "parameters": {}}', None, []),
        (LLAMA, '<|python_tag|>f.call(a="b")', None, []),
        (LLAMA, "  \n", None, []),
        (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{}', "", ["f", "g"]),
        (MISTRAL, "[TOOL_CALLS]nothing", None, []),
        (MISTRAL, "[TOOL_CALLS][" * 3, None, []),
    ],
)
def test_text_and_calls_are_told_apart(
    form: CallForm, text: str, said: str | None, names: list[str], piece: int
) -> None:
    found, calls = read(form, text, piece)
    assert (found, [name for name, _ in calls]) == (text if said is None else said, names)


def test_deep_nesting_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 100_000 + "}</tool_call>"
    assert read(HERMES, text, 10_000) == (text, [])
