"""Sums that overflow a float, and tokens that are ruled out, are ∞ in views and null in JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcli.inspection.causal.prompt_ablation import AnswerToken, Instead, Removal, Total, Without, Word, WordScan
from llmcli.inspection.core.distributions import change, entropy, kl_divergence, perplexity
from llmcli.inspection.core.tokens import Token, TokenProb
from llmcli.inspection.evaluation.comparison_side import Continuation, Expected
from llmcli.inspection.evaluation.model_diff import ComparedToken, Comparison
from llmcli.inspection.evaluation.text_score import TextScore, TokenScore
from llmcli.views.inspect.model_diff import ComparisonView
from llmcli.views.inspect.perplexity import ScoreView
from llmcli.views.inspect.prompt_ablation import without_view, words_view
from llmcli.views.terminal.to_json import json_line
from llmcli.views.widgets.numbers import number
from llmcli.views.widgets.token_table import sparkline
from tests.support.models.puppet import BOS, ids_of, write_puppet
from tests.support.terminal.cli import llm
from tests.support.terminal.drawing import drawn

A = Token(1, "a", b"a")


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [(1.5, ".2f", "1.50"), (math.inf, ".2f", "∞"), (-math.inf, ".1f", "-∞"), (math.inf, "+.2f", "+∞")],
)
def test_infinite_numbers_have_a_sign(value: float, spec: str, expected: str) -> None:
    assert number(value, spec) == expected


def test_tokens_that_are_ruled_out_add_nothing_to_kl_and_entropy() -> None:
    first, second = torch.tensor([0.0, -torch.inf]), torch.tensor([math.log(0.5), math.log(0.5)])
    assert float(kl_divergence(first, second)) == pytest.approx(math.log(2))
    assert float(kl_divergence(second, first)) == math.inf
    assert float(kl_divergence(first, first)) == float(entropy(first)) == 0
    assert (change(-math.inf, -math.inf), change(-1, -math.inf)) == (0, -math.inf)
    assert perplexity([-1e4, -1e4]) == perplexity([-math.inf]) == math.inf
    assert perplexity([-math.log(8), 0.0, 0.0]) == pytest.approx(2)


@pytest.mark.parametrize("logprob", [-1e5, -math.inf])
def test_a_text_with_infinite_perplexity(logprob: float) -> None:
    token = TokenScore(1, 1, "a", logprob, 5, 0.0)
    score = TextScore((TokenScore(0, 1, "a"), token), math.inf, -logprob, 1, "cpu kernel")
    text = drawn(ScoreView(score, 0, lambda _: b"a"), width=100)
    assert "perplexity ∞" in text and "inf" not in text and "nan" not in text
    assert json.loads(json_line("x", score))["perplexity"] is None
    assert sparkline([math.inf, 0.0]) == "█▁"


def test_two_models_with_infinite_kl_divergence() -> None:
    expected = Expected(-math.inf, A, 0.0)
    said = Continuation("a", (A,), True)
    compared = ComparedToken(1, 1, "a", b"a", math.inf, expected, expected)
    result = Comparison(
        ("x", "y"), (compared,), 1, math.inf, math.inf, 0.0, (math.inf, math.inf), (said, said), None, ("x", "y")
    )
    text = drawn(ComparisonView(result), width=100)
    assert text.count("∞") == 5 and "inf" not in text.replace("infinite", "")
    assert json.loads(json_line("x", result))["perplexities"] == [None, None]


def test_an_answer_of_probability_zero() -> None:
    gone = TokenProb(1, "a", b"a", 0.5)
    result = Without(
        Removal((1,), "a", False),
        (AnswerToken(1, "a", b"a", 0.0, 0.0, None),),
        Total(-math.inf, -math.inf, -1.0),
        Instead(gone, gone, gone),
    )
    text = drawn(without_view(result), width=100)
    assert " ∞" in text and "-∞" in text and "nan" not in text
    scan = WordScan((A,), -math.inf, (Word("a", (1,), -math.inf, False), Word("b", (2,), 0.0, False)))
    text = drawn(words_view(scan), width=100)
    assert "+∞" in text and "nan" not in text


def test_a_token_that_is_ruled_out_is_scored(tmp_path: Path) -> None:
    # So far apart that the other token's float32 softmax probability is 0.
    folder = write_puppet(tmp_path, {BOS: {ids_of(b"a")[0]: 1.0}})
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][:, BOS] *= 1e4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shown = llm("score", "b", "-m", folder, "--dtype", "float32")
    assert shown.returncode == 0 and "perplexity ∞" in shown.stdout.decode(), shown.stderr
    found = json.loads(llm("score", "b", "-m", folder, "--dtype", "float32", "--json").stdout)
    assert found["perplexity"] is None and found["tokens"][1]["logprob"] < -1000
