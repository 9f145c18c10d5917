"""A form applies to the answer, not to a thought, whether the template or the model opens the thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.guided.answer_form import AnswerForm
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.guided.grammar import Rule
from llmcli.engine.reply.text import ReplyText
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.engine.sampling.sampler import Sampler
from llmcli.errors import LlmcliError
from llmcli.text.reasoning import ReplyStart
from llmcli.text.reply_start import reply_start
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.puppet import ASSISTANT, SYSTEM, USER, ids_of, write_thinker
from tests.support.models.tiny import byte_tokenizer

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")

GREEDY = SamplingParams(temperature=0)


def tokenizer(*marks: str) -> Tokenizer:
    backend = byte_tokenizer()
    backend.add_special_tokens(list(marks))
    return Tokenizer(backend, {}, source="made")


def said(of: Tokenizer, wanted: Sequence[int], regex: str, state: str, *, room: int = 60) -> str:
    """The reply under a form of a model that prefers the tokens `wanted`, in that order."""
    constraint = Constraint(Rule("regex", regex), of, [USER])
    constraint.begin(room)
    reply = ReplyText(of, GREEDY, start=ReplyStart(state), exact=True)
    form = AnswerForm(constraint, of, reply)
    ids: list[int] = []
    while not form.ended and len(ids) < room:
        logits = torch.zeros(of.vocab_size)
        if len(ids) < len(wanted):
            logits[wanted[len(ids)]] = 1.0
        allowed, distribution, token = form.choose(logits, Sampler(GREEDY), ids, room - len(ids))
        if token is None or token == USER:
            break
        assert allowed[token] > -torch.inf and distribution[token] == 1
        ids.append(token)
        reply.push(token)
    return of.decode(ids, skip_special=False)


def spelled(of: Tokenizer, text: str, *marks: str) -> list[int]:
    """The ids of `text`, in which the `marks` are tokens."""
    for mark in marks:
        head, found, tail = text.partition(mark)
        if found:
            return [*spelled(of, head, *marks), of.token_to_id(mark) or 0, *spelled(of, tail, *marks)]
    return ids_of(text.encode())


@pytest.mark.parametrize(
    ("marks", "state", "wanted", "expected"),
    [
        # A thought that the template opens, with marks that are tokens and marks that are not.
        (("<think>", "</think>"), "think <think>", "So.</think>Yes", "So.</think>Yes"),
        ((), "think <think>", "So.</think>Yes", "So.</think>Yes"),
        # A thought that the model opens: possible only with a single token, as the first.
        (("<think>", "</think>"), "begin", "<think>So.</think>Yes", "<think>So.</think>Yes"),
        (("<think>", "</think>"), "begin", "Yes", "Yes"),
        (("<think>", "</think>"), "begin", "Y<think>s", "Yes"),
        # No thought.
        (("<think>", "</think>"), "answer", "<think>Yes", "No"),
        ((), "begin", "<think>Yes", "No"),
        (("<think>", "</think>"), "plain", "<think>Yes", "No"),
        (("<|START_THINKING|>", "<|END_THINKING|>"), "begin", "Yes", "Yes"),
        (
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            "begin",
            "<|START_THINKING|>So.<|END_THINKING|>Yes",
            "<|START_THINKING|>So.<|END_THINKING|>Yes",
        ),
        (
            ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
            "begin",
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes",
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes",
        ),
    ],
)
def test_the_form_applies_from_the_answer_on(marks: tuple[str, ...], state: str, wanted: str, expected: str) -> None:
    of = tokenizer(*(mark for mark in marks if mark != "<|end|>"))
    assert said(of, spelled(of, wanted, *marks), "Yes|No", state) == expected


def test_a_token_that_ends_the_thought_and_begins_the_answer_is_forbidden() -> None:
    backend = byte_tokenizer()
    backend.add_tokens([">N"])
    of = Tokenizer(backend, {}, source="made")
    wanted = [*ids_of(b"So</think"), of.token_to_id(">N") or 0]
    # All other tokens have equal logits; the first is "!", which keeps the thought open.
    assert said(of, wanted, "Yes", "think <think>", room=12) == "So</think!!!"
    wanted = ids_of(b"So</think>")
    assert said(of, wanted, "Yes", "think <think>") == "So</think>Yes"


def test_a_thought_that_leaves_too_little_room_is_an_error() -> None:
    of = tokenizer("<think>", "</think>")
    wanted = spelled(of, "So.</think>Yes", "</think>")
    assert said(of, wanted, "Yes", "think <think>", room=7) == "So.</think>Yes"
    with pytest.raises(LlmcliError, match=r"fits into 2 tokens left after the thought; .* needs 3\)"):
        said(of, wanted, "Yes", "think <think>", room=6)


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    """Thinks "Hm, 2." after a template that opens the thought, then answers "Yes!"."""
    folder = tmp_path_factory.mktemp("models") / "opener"
    return llmcli.load(write_thinker(folder, b"Hm, 2.", b"Yes!", opened="[THINK]"), dtype="float32")


@pytest.mark.parametrize("speculation", [{}, {"lookup": True, "draft_tokens": 4}])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_chat_engine_detects_a_thought_opened_by_the_prompt(
    opener: llmcli.LoadedModel, speculation: dict[str, object], probabilities: bool
) -> None:
    engine = opener.engine(**speculation)  # type: ignore[arg-type]
    for prompt, thought in (([ASSISTANT, SYSTEM], "Hm, 2."), ([ASSISTANT], "Hm, 2.")):
        constraint = Constraint(Rule("regex", "Yes!?"), opener.tokenizer, opener.stop_ids)
        events = list(engine.stream(prompt, GREEDY, constraint=constraint, probabilities=probabilities, top=2))
        apart = ThinkingApart(opener.tokenizer, reply_start(opener.tokenizer, prompt), exact=True)
        split = [event for event in map(apart, events) if isinstance(event, Step | Finish)]
        assert ("".join(each.thinking for each in split), "".join(each.text for each in split)) == (thought, "Yes!")
        if probabilities:
            steps = [event for event in events if isinstance(event, Step)]
            removed = [{candidate.removed_by for candidate in step.top} for step in steps]
            assert not any("constraint" in reasons for reasons in removed[1:6])
            assert "constraint" in removed[-1]


@pytest.mark.parametrize("speculation", [{}, {"lookup": True, "draft_tokens": 4}])
@pytest.mark.parametrize("probabilities", [False, True])
def test_stop_strings_and_lengths_in_an_engine(
    opener: llmcli.LoadedModel, speculation: dict[str, object], probabilities: bool
) -> None:
    engine = opener.engine(**speculation)  # type: ignore[arg-type]

    def finished(params: SamplingParams) -> tuple[str, str]:
        *steps, finish = engine.stream([ASSISTANT, SYSTEM], params, probabilities=probabilities)
        assert isinstance(finish, Finish)
        return "".join(step.text for step in steps if isinstance(step, Step)) + finish.text, finish.reason

    stops = replace(GREEDY, stop=("2", "s"))
    assert finished(stops) == ("Hm, 2.[/THINK]Ye", "stop_string")
    assert finished(replace(stops, stop_in_thinking=True)) == ("Hm, ", "stop_string")
    assert finished(replace(stops, max_tokens=5)) == ("Hm, 2", "length")
