"""Two models on a text of three tokens, to be drawn: one token differs, and so do their continuations."""

from __future__ import annotations

import math

from llmcli.inspection.core.tokens import Token
from llmcli.inspection.evaluation.comparison_side import Continuation, Expected
from llmcli.inspection.evaluation.model_diff import ComparedToken, Comparison, Parting

_BIT = math.log(2)
_RED, _TAG, _BLUE, _END = (Token(at, text, text.encode()) for at, text in enumerate([" red", " </b>", " blue", "."]))


def _expected(share: float, choice: Token, best: float) -> Expected:
    return Expected(math.log(share), choice, math.log(best))


COMPARISON = Comparison(
    models=("big", "small"),
    tokens=(
        ComparedToken(0, 5, "A", b"A"),
        ComparedToken(1, 0, " red", b" red", 0.02 * _BIT, _expected(0.9, _RED, 0.9), _expected(0.8, _RED, 0.8)),
        ComparedToken(2, 2, " blue", b" blue", 1.5 * _BIT, _expected(0.5, _RED, 0.6), _expected(0.125, _TAG, 0.4)),
    ),
    compared=2,
    mean_kl=0.76 * _BIT,
    largest_kl=1.5 * _BIT,
    agreement=0.5,
    perplexities=(1.5, 3.2),
    continuations=(
        Continuation(" red red.", (_RED, _RED, _END), False),
        Continuation(" red </b> blue.", (_RED, _TAG, _BLUE, _END), True),
    ),
    parting=Parting(1, _RED, _TAG, 0.25 * _BIT, None),
    paths=("readable model", "cpu kernel"),
)
