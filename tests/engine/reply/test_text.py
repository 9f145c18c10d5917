"""Stop strings end the answer; they end a thought only if they are set to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.reply.text import ReplyText
from llmcli.engine.sampling.params import SamplingParams
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.puppet import ids_of
from tests.support.models.tiny import byte_tokenizer

BEFORE = ReplyStart("begin")
INSIDE = ReplyStart("think <think>")


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    return Tokenizer(byte_tokenizer(), {}, source="made")


def read(
    of: Tokenizer, said: str, start: ReplyStart | None, *stop: str, turn_end: str = "", stop_in_thinking: bool = False
) -> tuple[str, str | None]:
    """The text of a reply up to its end, and the reason for the end."""
    params = SamplingParams(stop=stop, stop_in_thinking=stop_in_thinking)
    text = ReplyText(of, params, stop_texts=[turn_end] if turn_end else [], start=start)
    shown = ""
    for token in ids_of(said.encode()):
        shown += text.push(token)
        if text.stopped:
            break
    return shown + text.finish(), text.stopped


@pytest.mark.parametrize(
    ("said", "start", "text", "stopped"),
    [
        ("<think>a Q b</think>c Q d", BEFORE, "<think>a Q b</think>c ", "stop_string"),
        ("a Q b</think>c Q d", INSIDE, "a Q b</think>c ", "stop_string"),
        ("a Q b</think>c", INSIDE, "a Q b</think>c", None),
        ("a Q b", INSIDE, "a Q b", None),
        ("a Q b", BEFORE, "a ", "stop_string"),
        ("<think>Q", ReplyStart("answer"), "<think>", "stop_string"),
        ("<think>Q", None, "<think>", "stop_string"),
        ("b Q", ReplyStart("begin", "<think>a"), "b Q", None),
        ("b Q", ReplyStart("begin", "a"), "b ", "stop_string"),
        (" <tQ", BEFORE, " <t", "stop_string"),
    ],
)
def test_a_stop_string_applies_to_the_answer(
    bytewise: Tokenizer, said: str, start: ReplyStart | None, text: str, stopped: str | None
) -> None:
    assert read(bytewise, said, start, "Q") == (text, stopped)
    everywhere = read(bytewise, said, start, "Q", stop_in_thinking=True)
    assert everywhere == (said.partition("Q")[0], "stop_string" if "Q" in said else None)


def test_an_end_of_turn_text_ends_a_thought_too(bytewise: Tokenizer) -> None:
    assert read(bytewise, "a Q<end>b", INSIDE, "Q", turn_end="<end>") == ("a Q", "stop")
    assert read(bytewise, "a</think>b<end>Q", INSIDE, "Q", turn_end="<end>") == ("a</think>b", "stop")


def test_whitespace_after_a_thought_is_not_searched_for_stop_strings(bytewise: Tokenizer) -> None:
    assert read(bytewise, "a</think>\n\nb\n\nc", INSIDE, "\n\n") == ("a</think>\n\nb", "stop_string")


@given(
    thought=st.text("aQ<t", max_size=8), answer=st.text("aQ<t", max_size=8), stop=st.text("aQ<", min_size=1, max_size=2)
)
def test_the_answer_ends_before_the_first_stop_string_in_it(thought: str, answer: str, stop: str) -> None:
    of = Tokenizer(byte_tokenizer(), {}, source="made")
    found = read(of, f"{thought}</think>{answer}", INSIDE, stop)
    expected, at, _ = answer.partition(stop)
    assert found == (f"{thought}</think>{expected}", "stop_string" if at else None)


def test_without_stop_strings_no_text_is_held_back(bytewise: Tokenizer) -> None:
    text = ReplyText(bytewise, SamplingParams(), start=BEFORE)
    said = " <think>a</think> b"
    states = []
    for token, char in zip(ids_of(said.encode()), said, strict=True):
        assert text.push(token) == char
        states.append(text.state)
    assert [state for state, _ in itertools.groupby(states)] == ["begin", "think <think>", "answer"]


def test_tokens_that_end_a_thought_and_begin_the_answer_are_recognized() -> None:
    backend = byte_tokenizer()
    backend.add_tokens(["> Y", ">\n"])
    of = Tokenizer(backend, {}, source="made")
    more, spaces = (of.token_to_id(piece) or 0 for piece in ("> Y", ">\n"))
    text = ReplyText(of, SamplingParams(), start=INSIDE, exact=True)
    assert not text.begins_answer(more)
    for token in ids_of(b"a</think"):
        text.push(token)
    assert text.begins_answer(more)
    assert not text.begins_answer(spaces) and not text.begins_answer(ids_of(b">")[0])
    assert text.awaits_answer and text.state == "think <think>"
