from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.text.reasoning import ThinkingFormat, ThinkingSplitter, marking_tokens, split_thinking, thinking_format

HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
COHERE = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>")
# Tokens of the vocabulary, the end of the prompt, the reply, what is thought and what is answered.
REPLIES = {
    "none": ((), "", " An answer.\n", "", " An answer.\n"),
    "tags": (("<think>",), "assistant\n", "<think>\nHm,\n 2.\n</think>\n\nIt is 2.", "Hm,\n 2.\n", "It is 2."),
    "spaces first": ((), "", " \n<thinking>a</thinking>b", "a", "b"),
    "another pair": ((), "", "<think>a</thought>b</think> c", "a</thought>b", "c"),
    "opened by the template": ((), "<|assistant|><think>\n", "So\n</think>\n\nYes", "So\n", "Yes"),
    "opened twice": ((), "<think>", "<think>So</think>Yes", "So", "Yes"),
    "closed by the template": ((), "<think>\n\n</think>\n\n", "Yes", "", "Yes"),
    "empty": ((), "", "<think>\n\n</think>\n\nYes", "", "Yes"),
    "cut off": ((), "", "<think>So", "So", ""),
    "cut off in a mark": ((), "<think>", "So</thi", "So</thi", ""),
    "cut off in the first": ((), "", " <thi", "", " <thi"),
    "words about tags": ((), "", "Use <think>x</think>.", "", "Use <think>x</think>."),
    "mistral": (("[THINK]", "[/THINK]"), "[/INST]", "[THINK]Hm[/THINK]Yes [THINK]", "Hm", "Yes [THINK]"),
    "cohere": (COHERE, "<|CHATBOT_TOKEN|>", "<|START_THINKING|>I<|END_THINKING|>\nYes", "I", "Yes"),
    "harmony": (
        HARMONY,
        "<|start|>assistant",
        "<|channel|>analysis<|message|>We <|x|><|end|><|start|>assistant<|channel|>final<|message|>Yes <b>",
        "We <|x|>",
        "Yes <b>",
    ),
    "harmony, several": (
        HARMONY,
        "",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=x<|message|>b"
        "<|end|><|start|>assistant<|channel|>final<|message|>c",
        "acommentary to=x<|message|>b",
        "c",
    ),
}


def form_of(name: str) -> tuple[ThinkingFormat, str, str, str, str]:
    added, prompt, reply, thought, answer = REPLIES[name]
    form = thinking_format(added)
    return form, form.opened(prompt), reply, thought, answer


@pytest.mark.parametrize("name", REPLIES)
@given(data=st.data())
def test_thoughts_are_told_from_the_answer_however_the_reply_is_cut(name: str, data: st.DataObject) -> None:
    form, state, reply, thought, answer = form_of(name)
    places = sorted(data.draw(st.lists(st.integers(0, len(reply)))))
    splitter = ThinkingSplitter(form, state)
    pieces = [splitter.push(reply[a:b]) for a, b in itertools.pairwise([0, *places, len(reply)])]
    pieces.append(splitter.finish())
    assert ("".join(each for each, _ in pieces), "".join(each for _, each in pieces)) == (thought, answer)
    assert split_thinking(reply, form, state) == (thought, answer)


def test_ordinary_answers_are_not_held_back() -> None:
    splitter = ThinkingSplitter(thinking_format(()))
    assert splitter.push("A") == ("", "A")
    assert splitter.push(" <") == ("", " <")
    splitter = ThinkingSplitter(thinking_format(HARMONY))
    assert splitter.push("A <") == ("", "A ")
    assert splitter.push("b") == ("", "<b")


def test_marks_are_those_that_the_vocabulary_has() -> None:
    assert marking_tokens(("<|end|>", "<|user|>", "<think>")) == ("<think>",)
    assert set(marking_tokens(HARMONY)) == set(HARMONY) - {"<|return|>"}
    assert marking_tokens(COHERE) == COHERE[:2]
