from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.text.reasoning import (
    PLAIN,
    ThinkingFormat,
    ThinkingSplitter,
    marking_tokens,
    split_thinking,
    thinking_format,
)

HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
COHERE = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>")
APERTUS = ("<|inner_prefix|>", "<|inner_suffix|>", "<|assistant_end|>")
SOLAR = ("<|begin|>", "<|think|>", "<|content|>", "<|end|>", "<|flush|>", "<|calls|>")
MUSE = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>")
GEMMA = ("<|turn>", "<turn|>", "<|channel>", "<channel|>")
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
    "apertus": (APERTUS, "<|assistant_start|>", "<|inner_prefix|>Hm<|inner_suffix|>Yes", "Hm", "Yes"),
    "gemma 4": (GEMMA, "<|turn>model\n", "<|channel>thought\nHm\n<channel|>Yes <|channel>", "Hm\n", "Yes <|channel>"),
    "gemma 4, closed by the template": (GEMMA, "<|channel>thought\n<channel|>", "Yes", "", "Yes"),
    "gemma 4, no thought": (GEMMA, "<|turn>model\n", "<|channel>x", "", "<|channel>x"),
    "cohere": (COHERE, "<|CHATBOT_TOKEN|>", "<|START_THINKING|>I<|END_THINKING|>\nYes", "I", "Yes"),
    "solar": (
        SOLAR,
        "<|begin|>assistant",
        "<|think|>We <b><|end|><|begin|>assistant<|content|>Yes <b>",
        "We <b>",
        "Yes <b>",
    ),
    "solar, closed by the template": (
        SOLAR,
        "<|begin|>assistant<|think|><|end|><|begin|>assistant",
        "<|content|>Yes",
        "",
        "Yes",
    ),
    "muse": (
        MUSE,
        "<|start|>assistant",
        " to=self<|message|>Go to=user.<|eom|><|start|>assistant to=user<|message|>Say to=self",
        "Go to=user.",
        "Say to=self",
    ),
    "muse, a tool": (
        MUSE,
        "<|start|>assistant",
        " to=self<|message|>Hm<|eom|><|start|>assistant to=weather.get<|message|><x>",
        "Hmweather.get<|message|><x>",
        "",
    ),
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
def test_thinking_and_answer_do_not_depend_on_the_pieces(name: str, data: st.DataObject) -> None:
    form, state, reply, thought, answer = form_of(name)
    places = sorted(data.draw(st.lists(st.integers(0, len(reply)))))
    splitter = ThinkingSplitter(form, state)
    pieces = [splitter.push(reply[a:b]) for a, b in itertools.pairwise([0, *places, len(reply)])]
    pieces.append(splitter.finish())
    assert ("".join(each for each, _ in pieces), "".join(each for _, each in pieces)) == (thought, answer)
    assert split_thinking(reply, form, state) == (thought, answer)
    splitter = ThinkingSplitter(form, state)
    cut = [splitter.pieces(reply[a:b]) for a, b in itertools.pairwise([0, *places, len(reply)])]
    assert "".join(piece for pieces in cut for _, piece in pieces) + "".join(splitter.finish()) == reply


HUNYUAN = "{% if '<answer>' in content and '</answer>' in content %}{% endif %}"
ERNIE = "{{ '<response>\\n' + content + '\\n</response>\\n' }}"


@pytest.mark.parametrize(
    ("template", "prompt", "reply", "thought", "answer"),
    [
        (HUNYUAN, "", "<think>\nHm\n</think>\n<answer>\nYes\n</answer>", "Hm\n", "Yes"),
        (HUNYUAN, "<think>\n\n</think>\n", "<answer>\nYes</answer>\n", "", "Yes"),
        (HUNYUAN, "", "<answer>Yes</answer>", "", "Yes"),
        (HUNYUAN, "", "<think>a</think>Yes", "a", "Yes"),
        (ERNIE, "assistant\n<think>\n", "Hm\n</think>\n\n<response>\nYes\n</response>\n", "Hm\n", "Yes"),
        ("", "", "<think>a</think><answer>Yes</answer>", "a", "<answer>Yes</answer>"),
    ],
)
def test_tags_around_the_answer_are_not_part_of_it(
    template: str, prompt: str, reply: str, thought: str, answer: str
) -> None:
    form = thinking_format((), [template])
    state = form.opened(prompt)
    assert split_thinking(reply, form, state) == (thought, answer)
    splitter = ThinkingSplitter(form, state)
    pieces = [splitter.push(letter) for letter in reply] + [splitter.finish()]
    assert ("".join(each for each, _ in pieces), "".join(each for _, each in pieces)) == (thought, answer)
    # Structured output is not searched for tags.
    splitter = ThinkingSplitter(form, "think <think>", exact=True)
    assert splitter.push("a</think>") == ("a", "")
    assert splitter.push('"<answer>"') == ("", '"<answer>"')


def test_ordinary_answers_are_not_held_back() -> None:
    splitter = ThinkingSplitter(thinking_format(()))
    assert splitter.push("A") == ("", "A")
    assert splitter.push(" <") == ("", " <")
    splitter = ThinkingSplitter(thinking_format(HARMONY))
    assert splitter.push("A <") == ("", "A ")
    assert splitter.push("b") == ("", "<b")


def test_thinking_marks_depend_on_the_vocabulary() -> None:
    assert marking_tokens(("<|end|>", "<|user|>", "<think>")) == ("<think>",)
    assert set(marking_tokens(HARMONY)) == set(HARMONY) - {"<|return|>"}
    assert marking_tokens(COHERE) == COHERE[:2]
    assert set(marking_tokens(GEMMA)) == {"<|channel>", "<channel|>"}


@pytest.mark.parametrize(
    ("added", "prompt", "opening", "awaits"),
    [
        ((), "assistant\n", "", False),
        ((), "assistant\n<think>\n", "\n</think>\n\n", True),
        ((), "assistant<think>", "</think>", True),
        ((), "assistant<think>\n\n</think>\n\n", "", False),
        ((), "assistant</reasoning>", "", False),
        (("[THINK]", "[/THINK]"), "[THINK]", "[/THINK]", True),
        (COHERE, "<|START_THINKING|>", "<|END_THINKING|>", True),
        (COHERE, "<|CHATBOT_TOKEN|>", "", False),
        (GEMMA, "<|turn>model\n<|channel>thought\n<channel|>", "", False),
        (SOLAR, "<|begin|>assistant", "<|content|>", True),
        (SOLAR, "<|begin|>assistant<|think|>", "<|end|><|begin|>assistant<|content|>", True),
        (MUSE, "<|start|>assistant", " to=user<|message|>", True),
        (MUSE, "<|start|>assistant to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>", True),
        (HARMONY, "<|start|>assistant", "<|channel|>final<|message|>", True),
        (HARMONY, "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", True),
        (HARMONY, "<|channel|>final<|message|>", "", False),
    ],
)
def test_an_opening_makes_the_answer_begin(added: tuple[str, ...], prompt: str, opening: str, awaits: bool) -> None:
    form = thinking_format(added)
    assert form.answer_opening(prompt) == opening
    assert form.awaits_answer(form.opened(prompt)) is awaits
    if opening:
        assert form.opened(prompt + opening) == "answer"
        splitter = ThinkingSplitter(form, form.opened(prompt))
        assert (splitter.push(opening + "Yes"), splitter.awaits_answer) == (("", "Yes"), False)


def test_a_text_to_continue_has_no_marks() -> None:
    for added in ((), HARMONY, COHERE):
        for reply in ("<think>a</think>b", "<|channel|>analysis<|message|>a", "<|START_THINKING|>a"):
            assert split_thinking(reply, thinking_format(added), PLAIN) == ("", reply)


def test_structured_answers_keep_every_character() -> None:
    splitter = ThinkingSplitter(thinking_format(()), "think <think>", exact=True)
    assert [splitter.push(text) for text in ("a</think>\n", "\n b", "</think> <think>")] == [
        ("a", ""),
        ("", "\n b"),
        ("", "</think> <think>"),
    ]
    splitter = ThinkingSplitter(thinking_format(HARMONY), exact=True)
    # Without a channel it is not the answer yet.
    assert [splitter.push(text) for text in ("so ", "<|channel|>final<|message|>", " <|end|>")] == [
        ("so ", ""),
        ("", ""),
        ("", " <|end|>"),
    ]
