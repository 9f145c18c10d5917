from __future__ import annotations

import pytest

from llmcli.inspection.causal.prompt_ablation import AnswerToken, Instead, Removal, Total, Without, Word, WordScan
from llmcli.views.inspect.prompt_ablation import without_view, words_view
from tests.support.inspections.prompt_ablation import INSTEAD, RESULT, SCAN
from tests.support.terminal.drawing import drawn, lines


def test_answer_probabilities_before_hidden_and_removed() -> None:
    assert (
        drawn(without_view(RESULT), 60)
        == """\
without ␣France␛ (tokens 3-4, 7)
answer              before      hidden  removed
␣Paris               75.0%       25.0%    <0.1%
␛[2J                 50.0%       50.0%    25.0%
all, in bits          1.44        2.89    15.15
change                           +1.44   +13.71
first choice  ␣Paris 75.0%  ␣the 50.0%  ⏎ 12.5%"""
    )


def test_hiding_the_first_or_last_token_has_a_caveat() -> None:
    nothing_left = Without(
        Removal((0,), "all", True),
        (AnswerToken(1, "a", b"a", 0.5, 0.25, None),),
        Total(-0.5, -1.0, None),
        Instead(INSTEAD.before, INSTEAD.hidden, None),
    )
    lines = drawn(without_view(nothing_left), 120).splitlines()
    assert lines[0] == "without all (token 0)"
    assert "first token" in lines[1] and "cannot change" in lines[2]
    assert [line.split()[-1] for line in lines[4:]] == ["-", "-", "-", "-"]


def test_words_are_sorted_by_their_effect_on_the_answer() -> None:
    assert (
        drawn(words_view(SCAN), 60)
        == """\
answer ␣Paris (surprise 0.36 bits)
word      #  change, bits
France  3-4         +5.77  ████████████
⏎         5         +1.44  ███
is        6         -0.72  █▌
The word that ends the prompt predicts the answer itself and
can hardly be hidden."""
    )
    assert drawn(words_view(WordScan(SCAN.answer, -0.25, ())), 60).startswith("answer")


def test_words_without_effect_have_no_bars() -> None:
    still = WordScan(SCAN.answer, -0.25, (Word("a", (0,), 0.0, False),))
    text = drawn(words_view(still), 80)
    assert "+0.00" in text and "█" not in text and "Token 0" in text


@pytest.mark.parametrize("colors", [None, "truecolor"])
@pytest.mark.parametrize("view", [without_view(RESULT), words_view(SCAN)], ids=["answer", "words"])
def test_nothing_is_lost_in_forty_columns(view: object, colors: str | None) -> None:
    text = "\n".join(lines(view, 40, colors))  # type: ignore[arg-type]
    assert "Paris" in text and "France" in text and "+1.44" in text and "…" not in text
