"""The end of the model's turn in chat templates."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from llmcli.text.chat.end_of_turn import ORIGIN, turn_end
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.stop_tokens import stop_ids
from llmcli.text.tokenizer import Tokenizer
from tests.support.text.tokenizers import CHATML, byte_level_backend

TOKENS = ("<|turn|>", "<|over|>", "<|sep|>", "<|part|>", "<|end|>")
TURNS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|over|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tokenizer(*tokens: str) -> Tokenizer:
    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens or TOKENS])
    # The model's EOS is another token.
    return Tokenizer(backend, {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}, source="made")


def ends(source: str, *tokens: str) -> list[str]:
    ours = tokenizer(*tokens)
    found = turn_end(ours, ChatTemplate(source, special_tokens={"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}))
    assert set(found.ids.values()) <= {(ORIGIN,)}
    return [*map(ours.piece, found.ids), *found.texts]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (TURNS, ["<|over|>"]),
        (CHATML, ["<|im_end|>"]),
        # Content as typed parts.
        (TURNS.replace("m.content", "m.content[0].text"), ["<|over|>"]),
        # Only between messages.
        (TURNS.replace("<|over|>\n", "{% if not loop.last %}<|over|>{% endif %}"), ["<|over|>"]),
        # White space before it; another token behind it.
        (TURNS.replace("<|over|>", "\n<|over|><|sep|>"), ["<|over|>"]),
        # Roles of other names, and the BOS again.
        (
            "{% for m in messages %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else "
            "' ' + m.content + ' ' + eos_token }}{% endfor %}",
            ["<|im_end|>"],
        ),
        # No second question, or none without a system prompt.
        ("{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}" + TURNS, ["<|over|>"]),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('who am I?') }}{% endif %}" + TURNS, ["<|over|>"]),
        # A default system prompt at the beginning.
        ("{% if messages[0].role != 'system' %}<|turn|>system\nBe kind.<|over|>\n{% endif %}" + TURNS, ["<|over|>"]),
    ],
)
def test_a_control_token_after_each_reply_ends_the_turn(source: str, expected: list[str]) -> None:
    assert ends(source) == expected


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("</turn>\n", ["</turn>"]),
        ("\n[END]\n", ["\n[END]", "[END]"]),
        ("<|stop|>", ["<|stop|>"]),
        ("\n###END###\n", ["\n###END###", "###END###"]),
        (" END_OF_TURN\n", [" END_OF_TURN", "END_OF_TURN"]),
        ("</turn><|over|>", ["</turn>"]),
    ],
)
def test_an_end_of_several_tokens_is_a_text(end: str, expected: list[str]) -> None:
    assert ends(TURNS.replace("<|over|>\n", end)) == expected


@pytest.mark.parametrize(
    "source",
    [
        # Nothing but white space, or what may stand in any text.
        *(TURNS.replace("<|over|>\n", end) for end in ("", "\n", "\n\n", "\n###\n", "\n---\n", ". ", " Thanks.\n")),
        # The beginning of the user's turn.
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}{% endfor %}",
        "{{ bos_token }}{% for m in messages %}{{ '<u>' if m.role == 'user' else '<b>' }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}",
        # Thinking marks, and BOS.
        TURNS.replace("<|over|>", "</think>"),
        TURNS.replace("<|over|>", "{{ bos_token }}"),
        # Templates that fail, refuse, or lose the reply.
        "{% for %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].content }}<|over|>",
        "",
    ],
)
def test_ordinary_text_does_not_end_a_turn(source: str) -> None:
    assert ends(source) == []


def test_a_token_inside_a_turn_does_not_end_it() -> None:
    parts = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n"
        "{% if m.thinking %}thought {{ m.thinking }}<|part|>{% endif %}"
        "{{ m.content }}<|part|>"
        "{% for c in m.tool_calls %}call {{ c.function.name }}<|part|>{% endfor %}<|over|>{% endfor %}"
    )
    assert ends(parts) == ["<|over|>"]
    # A token known from other models does not count if the template writes it inside a turn.
    ours = tokenizer()
    known = ours.token_to_id("<|end|>") or 0
    declared, _ = stop_ids(ours, {"config.json": [7]})
    assert known in declared
    found = turn_end(ours, ChatTemplate(parts.replace("<|part|>", "<|end|>"), special_tokens={}))
    assert known not in found.stop_ids(declared) and found.stop_ids(declared).keys() >= {7, *found.ids}
    by_file, _ = stop_ids(ours, {"config.json": [known]})
    assert known in found.stop_ids(by_file)


def test_in_harmony_the_end_of_a_message_does_not_end_the_turn() -> None:
    harmony = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
    source = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    assert ends(source, *harmony) == []
    assert ends(source, "<|start|>", "<|message|>", "<|end|>") == ["<|end|>"]


def test_all_origins_of_a_stop_token_are_named() -> None:
    ours = tokenizer()
    over = ours.token_to_id("<|over|>") or 0
    end = turn_end(ours, ChatTemplate(TURNS, special_tokens={}))
    assert end.stop_ids({over: ("config.json",), 1: ("x",)}) == {over: ("config.json", ORIGIN), 1: ("x",)}
