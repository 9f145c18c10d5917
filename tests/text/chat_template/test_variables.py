"""The variables of chat templates that a user sets."""

from __future__ import annotations

import pytest

from llmcli.text.chat.prompt import Message, build_chat
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.chat_template.variables import template_value, unread_note
from tests.support.text.tokenizers import CHATML, tokenizer


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_true_is_spelled_as_in_json_python_and_yaml(text: str) -> None:
    assert template_value(text) is True


@pytest.mark.parametrize("text", ["false", "False", "FALSE"])
def test_false_is_spelled_as_in_json_python_and_yaml(text: str) -> None:
    assert template_value(text) is False


@pytest.mark.parametrize("text", ["null", "Null", "NULL", "None", "~"])
def test_null_is_spelled_as_in_json_python_and_yaml(text: str) -> None:
    assert template_value(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3", 3), ("-3", -3), ("+3", 3), ("1_000", 1000), ("0x1F", 31), ("0o17", 15), ("0", 0)),
        *(("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("-1.5E-2", -0.015)),
    ],
)
def test_numbers_are_spelled_as_in_json_python_and_yaml(text: str, number: float) -> None:
    assert (template_value(text), type(template_value(text))) == (number, type(number))


@pytest.mark.parametrize(
    "text",
    ["", "none", "no", "off", "low", "nan", "NaN", "inf", "1e999", "007", "1.2.3", "truely", "3px", "[1", "__a__"],
)
def test_other_values_are_strings(text: str) -> None:
    assert template_value(text) == text


def test_lists_and_objects_in_json_or_python() -> None:
    assert template_value('{"a": [true, null]}') == {"a": [True, None]} == template_value("{'a': [True, None]}")
    assert template_value("{1, 2}") == "{1, 2}" and template_value("[print(1)]") == "[print(1)]"
    assert template_value('"False"') == "False"


def note(source: str, **arguments: object) -> str | None:
    return unread_note(ChatTemplate(source, special_tokens={"bos_token": "<s>"}), arguments)


@pytest.mark.parametrize(
    "source",
    [
        "{{ enable_thinking }}",
        "{% if enable_thinking is defined and not enable_thinking %}x{% endif %}",
        "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ enable_thinking }}",
        "{% set enable_thinking = enable_thinking | default(true) %}",
        "{% macro m(x) %}{% for i in x %}{{ enable_thinking }}{% endfor %}{% endmacro %}{{ m([1]) }}",
        "{% set ns = namespace(on=enable_thinking) %}",
        "{% for m in messages if enable_thinking %}{% endfor %}",
        "{% generation %}{{ 1 if enable_thinking else 2 }}{% endgeneration %}",
        "{{ chat_template_kwargs.get('enable_thinking') }}",
        "{{ kwargs.enable_thinking }}",
    ],
)
def test_variables_that_the_template_reads_give_no_note(source: str) -> None:
    assert note(source, enable_thinking=False) is None


def test_unread_variables_are_noted_with_similar_names() -> None:
    told = note("{{ enable_thinking }}{{ messages }}{{ bos_token }}", enable_thnking=False)
    assert told is not None and "'enable_thnking' (did you mean 'enable_thinking'?)" in told
    told = note("{{ reasoning_effort }}{% set x = x or 1 %}{{ messages }}{{ bos_token }}", zzz=1)
    assert told is not None and told.endswith("does not read 'zzz', set by --template-arg. It reads reasoning_effort.")
    for read in ("chat_template_kwargs.get('thinking')", 'kwargs["thinking"]', "kwargs.thinking"):
        told = note("{{ " + read + " }}", thinkng=False)
        assert told is not None and told.endswith("'thinkng' (did you mean 'thinking'?), set by --template-arg.")
    assert "reads no variables besides" in (note("{{ messages }}{# zzz #}", zzz=1) or "")
    assert "'a'" in (note("{{ b }}", a=1, b=2) or "") and note("x") is None


def test_the_note_comes_with_the_prompt_and_all_values_under_one_name() -> None:
    ours = tokenizer("byte")
    messages = [Message("user", "a")]
    built = build_chat(ours, ChatTemplate(CHATML, special_tokens={}), messages, template_args={"enabel": 1})
    assert len(built.notes) == 1 and "'enabel'" in built.notes[0]
    reads_all = ChatTemplate(CHATML + "{{ chat_template_kwargs['x'] }}", special_tokens={})
    built = build_chat(ours, reads_all, messages, template_args={"x": "fox"})
    assert ours.decode(built.ids).endswith("assistant\nfox") and built.notes == ()
