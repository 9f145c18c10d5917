"""Sampling flags become `SamplingParams`; tokens that they name must be in the model's vocabulary."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields

import pytest

import llmcli
from llmcli.commands.batch import input
from llmcli.commands.batch.command import batch
from llmcli.commands.chat.command import chat
from llmcli.commands.generate.command import generate
from llmcli.commands.shared.options.sampling import FILTERS, SamplingOptions
from llmcli.engine import SamplingParams
from llmcli.engine.sampling.logit_bias import check_bias
from llmcli.errors import UsageError
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.puppet import chain, write_puppet


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return llmcli.load(write_puppet(tmp_path_factory.mktemp("m"), chain(b"ab"))).tokenizer


def test_every_setting_has_a_flag_in_each_command() -> None:
    settings = {each.name for each in fields(SamplingParams)}
    options = {each.name for each in fields(SamplingOptions)}
    assert settings == {name.replace("breaker", "breakers") for name in options}
    for command in (generate, chat, batch):
        assert options <= inspect.signature(command).parameters.keys()


def test_given_settings_override_recommended_ones(tokenizer: Tokenizer) -> None:
    numbers: dict[str, float] = dict.fromkeys(FILTERS, 1)
    options = SamplingOptions(**numbers, seed=4, stop=["x"], dry_sequence_breaker=["a"], logit_bias=["a-2", "66-inf"])  # type: ignore[arg-type]
    params = options.params({"temperature": 0.2, "xtc_probability": 0.5}, tokenizer)
    assert all(getattr(params, name) == 1 for name in FILTERS)
    assert (params.seed, params.stop, params.dry_sequence_breakers) == (4, ("x",), ("a",))
    assert params.logit_bias == ((64, -2.0), (66, -math.inf))
    recommended = SamplingOptions(seed=1).params({"xtc_probability": 0.5, "typical_p": -1}, tokenizer)
    assert recommended == SamplingParams(seed=1, xtc_probability=0.5)


def test_a_filter_turns_sampling_on_despite_a_greedy_recommendation(tokenizer: Tokenizer) -> None:
    greedy = {"temperature": 0.0}
    assert SamplingOptions(presence_penalty=1.0).params(greedy, tokenizer).temperature == 0
    assert SamplingOptions(xtc_probability=0.5).params(greedy, tokenizer).temperature == 0.8


def test_none_gives_no_sequence_breakers(tokenizer: Tokenizer) -> None:
    options = SamplingOptions(dry_multiplier=1.0, dry_sequence_breaker=["none"])
    assert options.params({}, tokenizer).dry_sequence_breakers == ()
    with pytest.raises(UsageError, match="'abc' is in no token"):
        SamplingOptions(dry_multiplier=1.0, dry_sequence_breaker=["abc"]).params({}, tokenizer)


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("15043+1", ("15043", 1.0)),
        ("15043-1.5", ("15043", -1.5)),
        (" Hello-inf", (" Hello", -math.inf)),
        ("a-b+.5", ("a-b", 0.5)),
        ("1+1-2e-3", ("1+1", -0.002)),
        ("--1", ("-", -1.0)),
        ("\n+3", ("\n", 3.0)),
    ],
)
def test_a_bias_begins_at_the_last_sign(argument: str, found: tuple[str, float]) -> None:
    assert check_bias(argument) == found


@pytest.mark.parametrize("argument", ["", "15043", "+1", "a+", "a+b", "a+inf", "a-nan", "a+1x"])
def test_a_bias_of_another_form_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="is not a token, by ID or text, followed by"):
        SamplingOptions(logit_bias=[argument]).check()


@pytest.mark.parametrize(("argument", "says"), [("ab-1", r"'ab' is 2 tokens .* \(64, 65\)"), ("99999+1", "no.* 99999")])
def test_a_bias_for_an_unknown_token_is_refused(tokenizer: Tokenizer, argument: str, says: str) -> None:
    options = SamplingOptions(logit_bias=[argument])
    options.check()
    with pytest.raises(UsageError, match=says):
        options.params({}, tokenizer)


def test_control_tokens_can_have_a_bias(tokenizer: Tokenizer) -> None:
    guarded = next(token for token in range(tokenizer.vocab_size) if tokenizer.is_guarded(token))
    options = SamplingOptions(logit_bias=[f"{tokenizer.piece(guarded)}-5"])
    assert options.params({}, tokenizer).logit_bias == ((guarded, -5.0),)


def test_each_line_of_a_batch_can_set_filters(tokenizer: Tokenizer) -> None:
    value = {
        "prompt": "x",
        "logit_bias": {"66": -100, "67": 1e-7},
        "xtc_probability": 0.5,
        "dry_sequence_breaker": "a",
        "repeat_last_n": 64,
    }
    task = input.task(value, SamplingOptions(logit_bias=["a+1"], typical_p=0.5))
    params = task.sampling.params({}, tokenizer)
    assert params.logit_bias == ((66, -100.0), (67, 1e-7))
    assert (params.xtc_probability, params.typical_p, params.repeat_last_n) == (0.5, 0.5, 64)
    assert params.dry_sequence_breakers == ("a",)
    assert input.task({"prompt": "x", "logit_bias": "a-1"}, SamplingOptions()).sampling.logit_bias == ["a-1"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("logit_bias", {"66": "x"}, "number"),
        ("logit_bias", 3, "an object of IDs and numbers"),
        ("dry_sequence_breaker", [1], "list of texts"),
        ("repeat_last_n", 1.5, "whole number"),
        ("xtc_probability", 2, "xtc-probability must be from 0 to 1"),
    ],
)
def test_wrong_values_in_a_line_are_refused(name: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        input.task({"prompt": "x", name: value}, SamplingOptions())
