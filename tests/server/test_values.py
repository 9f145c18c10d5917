"""Value types survive the way through JSON with every bit."""

from __future__ import annotations

import json
import math

import pytest

from llmcli.engine.events import Candidate
from llmcli.inspection.core.tokens import Token
from llmcli.inspection.evaluation.answer_choices import AnswerChoice, AnswerChoices
from llmcli.inspection.evaluation.text_score import TextScore, TokenScore
from llmcli.server.values import from_json, to_json

CHOICES = AnswerChoices(
    (
        AnswerChoice("yes", 0.1, -math.inf, None, (Token(1, "é", b"\xc3\xa9"), Token(2, "\ufffd", b"\xff"))),
        AnswerChoice("no", 1.0, -1 / 3, -0.5, ()),
    ),
    0.1 + 0.2, 5, 7, "cpu",
)  # fmt: skip
SCORE = TextScore(
    (TokenScore(0, 1, "a"), TokenScore(1, 2, "b", -0.1, 3, 2.5, (Candidate(4, "c", -9.0),))), 2.0, 1.5, 1, "p"
)


@pytest.mark.parametrize("value", [CHOICES, SCORE])
def test_a_value_is_read_as_it_was_written(value: AnswerChoices | TextScore) -> None:
    assert from_json(type(value), json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize(
    "change", [{"covered": "0.1"}, {"choices": [1]}, {"choices": [{"text": "yes"}]}, {"path": None}]
)
def test_a_value_of_another_form_is_an_error(change: dict[str, object]) -> None:
    given = to_json(CHOICES)
    assert isinstance(given, dict)
    with pytest.raises((TypeError, KeyError, ValueError)):
        from_json(AnswerChoices, {**given, **change})
