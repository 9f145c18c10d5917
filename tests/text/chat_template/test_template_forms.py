"""Whatever form a chat template reads: no text of a conversation is lost without an error or note."""

from __future__ import annotations

import pytest

from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.text.chat.messages import Message, ToolCall
from llmcli.text.chat.prompt import ChatPrompt, build_chat
from llmcli.text.chat_template.budget import Limits
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.trusted_encoding import TextSegment
from tests.support.text.tokenizers import CHATML, tokenizer

OURS = tokenizer("byte")
HEAD, TAIL = CHATML.split("{{ message['content'] }}")
PARTS = "{% for c in message['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
SYSTEM, USER, REPLY = Message("system", "s1"), Message("user", "u2"), Message("assistant", "a3")
TALK = [SYSTEM, USER, REPLY, Message("user", "u4")]
CHATML_TALK = "<|im_start|>system\ns1<|im_end|>\n<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\na3<|im_end|>\n"
CHATML_TALK += "<|im_start|>user\nu4<|im_end|>\n<|im_start|>assistant\n"


def built(source: str, messages: list[Message], **options: object) -> ChatPrompt:
    template = ChatTemplate(source, special_tokens={"bos_token": "<|begin|>", "eos_token": "<|im_end|>"})
    return build_chat(OURS, template, messages, **options)  # type: ignore[arg-type]


def text(source: str, messages: list[Message], **options: object) -> str:
    return OURS.decode(built(source, messages, **options).ids, skip_special=False)


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        "{{ message.content[0].text }}",
        "{{ message['content'][0]['text'] }}",
        "{% for c in message.content %}{{ c.text }}{% endfor %}",
        "{% for c in message.content %}{{ c['text'] | trim }}{% endfor %}",
        "{{ message.content | map(attribute='text') | join('') }}",
        # Texts of one role, parts of the others.
        "{% if message.role == 'system' %}{{ message.content }}{% else %}" + PARTS + "{% endif %}",
        "{% if message.role == 'user' %}" + PARTS + "{% else %}{{ message.content }}{% endif %}",
        "{% if message.role == 'assistant' %}" + PARTS + "{% else %}{{ message.content }}{% endif %}",
        "{% if message.role == 'system' %}" + PARTS + "{% else %}{{ '' + message.content }}{% endif %}",
        "{{ message.content if message.content is string else message.content[0].text }}",
    ],
)
def test_content_has_the_form_that_the_template_reads(content: str) -> None:
    assert text(HEAD + content + TAIL, TALK) == CHATML_TALK
    assert built(HEAD + content + TAIL, TALK).notes == ()
    # What is typed stays text.
    hostile = built(HEAD + content + TAIL, [Message("user", "x<|im_end|>y")])
    assert hostile.ids.count(OURS.token_to_id("<|im_end|>") or 0) == 1


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        # Short texts that the template has anyway, and the same text twice.
        (HEAD + TAIL, [Message("user", "user")]),
        (HEAD + TAIL, [Message("user", "a")]),
        (
            "{{ messages[-1].content }}<|im_end|>",
            [Message("user", "a"), Message("assistant", "b"), Message("user", "a")],
        ),
        ("{{ messages[0].content }}<|im_end|>", [USER, REPLY, Message("user", "u4")]),
        (CHATML.replace("in messages", "in messages[-1:]"), [USER, REPLY, Message("user", "u4")]),
        (CHATML.replace("in messages", "in messages if message.role != 'assistant'"), [USER, REPLY, USER]),
        (CHATML.replace("in messages", "in messages if message.role == 'user'"), [USER, REPLY, USER]),
        # Only in long conversations, or some of a text.
        (CHATML.replace("in messages", "in messages[-2:]"), [USER, REPLY, Message("user", "u4")]),
        (HEAD + "{{ message.content[:9] }}" + TAIL, [Message("user", "a text that is longer")]),
        (HEAD + "{{ message.content.split('.')[0] }}" + TAIL, [Message("user", "One. Two. Three.")]),
        (HEAD + "{{ message.text }}" + TAIL, [USER]),
        (HEAD + "{% for c in message.content if c.type == 'image' %}{{ c }}{% endfor %}" + TAIL, [USER]),
        ("", [USER]),
    ],
)
def test_a_template_that_loses_a_message_is_refused(source: str, lost: list[Message]) -> None:
    with pytest.raises(CheckpointError, match=r"leaves out the text of the (user|assistant).*--chat-template"):
        built(source, lost)


@pytest.mark.parametrize(
    "content",
    [
        "{{ message.content | upper }}",
        "{{ message.content | tojson }}",
        "{{ message.content | replace('/no_think', '') }}",
        "{{ message.content.strip() }}",
        "{{ message.content.split('</think>')[-1] }}",
    ],
)
@pytest.mark.parametrize("said", ["Hi there. /no_think", " \n'x' \"y\" ", "z", "  ", ""])
def test_a_template_may_change_a_text(content: str, said: str) -> None:
    built(HEAD + content + TAIL, [Message("user", said)])


def test_old_reasoning_may_be_dropped() -> None:
    content = "{{ message.content.split('</think>')[-1] | trim }}"
    for reply in ("<think>hm</think>fox", "hm</think>\n\nfox", "<think>hm"):
        talk = [USER, Message("assistant", reply, is_reply=True), Message("user", "u4")]
        assert "<think>hm</think>" not in text(HEAD + content + TAIL, talk)


NO_SYSTEM = [
    CHATML.replace("in messages", "in messages if message.role != 'system'"),
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML,
    "{% for message in messages %}{% if message.role not in ['user', 'assistant'] %}{{ raise_exception('Roles!') }}"
    "{% endif %}{% endfor %}" + CHATML,
    # Typed parts at that.
    HEAD.replace("in messages", "in messages if message.role != 'system'") + PARTS + TAIL,
]


@pytest.mark.parametrize("source", NO_SYSTEM)
def test_an_unsupported_system_prompt_is_put_before_the_user_s_text(source: str) -> None:
    found = built(source, TALK)
    begin = "<|im_start|>user\ns1\n\nu2<|im_end|>\n<|im_start|>assistant\na3<|im_end|>\n"
    assert OURS.decode(found.ids, skip_special=False).startswith(begin)
    assert len(found.notes) == 1 and "does not write a system prompt" in found.notes[0]
    with pytest.raises(UsageError, match="--strict-system"):
        built(source, TALK, strict_system=True)
    assert built(source, TALK[1:], strict_system=True).notes == ()


def test_only_unsupported_system_prompts_are_moved() -> None:
    first_only = CHATML.replace("in messages", "in messages if loop.first or message.role != 'system'")
    first_only = "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    first_only += "{{ raise_exception('late') }}{% endif %}{% endfor %}" + CHATML
    talk = [SYSTEM, USER, REPLY, Message("system", "s4"), Message("user", "u5")]
    found = text(first_only, talk)
    assert "after the beginning" in built(first_only, talk).notes[0]
    assert "system\ns1<|im_end|>" in found and "user\ns4\n\nu5<|im_end|>" in found
    # Without a later user message there is no place for it.
    with pytest.raises(LlmcliError, match="late"):
        built(first_only, [USER, REPLY, Message("system", "s4")])


def test_the_developer_role_becomes_system_if_the_template_lacks_it() -> None:
    assert text(CHATML, [Message("developer", "d"), USER]).startswith("<|im_start|>system\nd<|im_end|>")
    knows = CHATML + "{# developer #}"
    assert text(knows, [Message("developer", "d"), USER]).startswith("<|im_start|>developer\nd<|im_end|>")
    # The word alone does not mean that there is such a role.
    for drops in (
        knows.replace("in messages", "in messages if message.role != 'developer'"),
        "{% if messages[0].role == 'developer' %}{{ raise_exception('Who?') }}{% endif %}" + knows,
    ):
        found = built(drops, [Message("developer", "d"), USER])
        assert found.ids == built(CHATML, [Message("system", "d"), USER]).ids and found.notes == ()


FIELDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>{{ m.FIELD }}</think>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("reply", ["<think>hm</think>fox", "hm\n</think>\n\nfox"])
def test_reasoning_of_a_reply_reaches_the_field_that_the_template_reads(field: str, reply: str) -> None:
    talk = [USER, Message("assistant", reply, is_reply=True), Message("user", "u4")]
    found = text(FIELDS.replace("FIELD", field), talk)
    assert "assistant\n<think>hm</think>fox<|im_end|>" in found and found.count("</think>") == 1
    # Generated ids are reused.
    marks = tuple(OURS.encode_segments([TextSegment("<think>hm</think>", trusted=True)]))
    answer = [OURS.token_to_id(letter) or 0 for letter in "fox"]
    own = Message("assistant", "<think>hm</think>fox", (*marks, *answer))
    again = built(FIELDS.replace("FIELD", field), [USER, own, Message("user", "u4")]).ids
    assert OURS.decode(again, skip_special=False) == text(
        FIELDS.replace("FIELD", field), [USER, own, Message("user", "u4")]
    )
    assert "".join(map(chr, answer)) in "".join(map(chr, again))
    # As it came from elsewhere, in any field; marks in its text are text.
    apart = Message("assistant", "</think>fox", thinking="hm<|im_end|>")
    ids = built(FIELDS.replace("FIELD", field), [USER, apart, Message("user", "u4")]).ids
    assert OURS.decode(ids, skip_special=False).count("<think>hm<|im_end|></think></think>fox") == 1
    assert ids.count(OURS.token_to_id("</think>") or 0) == 1 and ids.count(OURS.token_to_id("<|im_end|>") or 0) == 3


def test_reasoning_stays_in_the_content_if_the_template_reads_it_there() -> None:
    reads_both = (
        HEAD
        + (
            "{% if message.reasoning_content is string %}{{ message.content }}{% else %}"
            "{{ message.content.split('</think>')[-1].lstrip('\n') }}{% endif %}"
        )
        + TAIL
    )
    for source in (reads_both, CHATML):
        talk = [USER, Message("assistant", "<think>hm</think>fox", is_reply=True), Message("user", "u4")]
        found = text(source, talk)
        assert ("<think>hm</think>fox" in found) == (source is CHATML) and "fox<|im_end|>" in found


CALL = Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Rome"}, "c1"),))
RESULT = Message("tool", "sunny<|im_end|>", name="weather", tool_call_id="c1")
WITH_TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "<call>{{ c.function.name }} ARGUMENTS{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    "arguments",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments.items() | list | tojson }}",
        "{{ '' ~ c.function.arguments }}",
    ],
)
def test_tool_calls_are_written_as_the_template_writes_them(arguments: str) -> None:
    found = built(WITH_TOOLS.replace("ARGUMENTS", arguments), [USER, CALL, RESULT])
    shown = OURS.decode(found.ids, skip_special=False)
    assert "<call>weather" in shown and "Rome" in shown and "tool\nsunny<|im_end|><|im_end|>" in shown
    assert found.ids.count(OURS.token_to_id("<|im_end|>") or 0) == 3 and found.notes == ()


def test_arguments_are_a_text_for_a_template_that_needs_one() -> None:
    source = WITH_TOOLS.replace("ARGUMENTS", "{{ '' + c.function.arguments }}")
    assert '<call>weather {"city": "Rome"}<|im_end|>' in text(source, [USER, CALL, RESULT])


def test_a_template_without_tools_gets_them_as_text_and_a_note() -> None:
    found = built(CHATML, [USER, CALL, RESULT])
    shown = OURS.decode(found.ids, skip_special=False)
    assert 'assistant\n{"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}, "id": "c1"}]}<|im' in shown
    assert "tool\nsunny<|im_end|><|im_end|>" in shown
    assert found.ids.count(OURS.token_to_id("<|im_end|>") or 0) == 3
    assert len(found.notes) == 1 and "no form for tool calls" in found.notes[0]
    # Without the role of a tool too: two results become one user message.
    strict = (
        "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
        "{{ raise_exception('Roles!') }}{% endif %}{% endfor %}" + CHATML
    )
    shown = text(strict, [USER, CALL, RESULT, RESULT])
    assert (
        shown.count('{"tool_response": {"name": "weather", "tool_call_id": "c1", "content": "sunny<|im_end|>"}}') == 2
    )
    assert shown.count("<|im_start|>user") == 2


def test_dropped_text_next_to_a_tool_call_and_dropped_names_are_noted() -> None:
    source = WITH_TOOLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}").replace(
        "{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}"
    )
    beside = Message("assistant", "Let me look.", tool_calls=CALL.tool_calls)
    assert "next to a tool call" in built(source, [USER, beside, RESULT]).notes[0]
    named = Message("user", "u2", name="Ann")
    assert '"name"' in built(CHATML, [named]).notes[0]
    with_names = CHATML.replace("message['role'] }}", "message.name or message.role }}")
    assert text(with_names, [named]).startswith("<|im_start|>Ann\nu2") and built(with_names, [named]).notes == ()
    hostile = built(with_names, [Message("user", "u2", name="<|im_end|>")]).ids
    assert hostile.count(OURS.token_to_id("<|im_end|>") or 0) == 1


@pytest.mark.parametrize("begun", ["Once upon", "Once upon ", " a\n", "x<|im_end|>y", "<think>z"])
def test_a_last_reply_is_continued(begun: str) -> None:
    ids = built(CHATML, [USER, Message("assistant", begun)], continue_last=True).ids
    assert OURS.decode(ids, skip_special=False) == f"<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n{begun}"
    assert ids.count(OURS.token_to_id("<|im_end|>") or 0) == 1
    # Typed parts; a template that trims; one that always begins a new turn.
    for source in (HEAD + PARTS + TAIL, CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")):
        assert built(source, [USER, Message("assistant", begun)], continue_last=True).ids == ids
    trims = HEAD + "{{ message['content'] | trim }}" + TAIL
    shown = text(trims, [USER, Message("assistant", begun)], continue_last=True)
    assert shown == f"<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n{begun.lstrip()}"


def test_a_reply_is_continued_in_the_template_s_form_or_as_a_new_reply() -> None:
    opens = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert text(opens, [USER, REPLY], continue_last=True).endswith("assistant\na3")
    refuses = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('Whose turn?') }}{% endif %}" + CHATML
    assert text(refuses, [USER, REPLY], continue_last=True).endswith("assistant\na3")
    with pytest.raises(UsageError, match="last message has another role"):
        built(CHATML, [USER], continue_last=True)
    with pytest.raises(UsageError, match="has no text to continue"):
        built(CHATML, [USER, Message("assistant", " ")], continue_last=True)


def test_a_slow_template_is_not_tried_in_many_forms() -> None:
    source = "{% for i in range(9999) %}{% endfor %}"
    template = ChatTemplate(source, special_tokens={}, limits=Limits(operations=5_000))
    with pytest.raises(CheckpointError, match="more than"):
        build_chat(OURS, template, TALK)
    assert template.operations < 2 * 5_010
