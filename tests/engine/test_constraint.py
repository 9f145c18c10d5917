from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.constraint import Constraint
from llmcli.engine.rule import Rule
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.detokenizer import Detokenizer
from llmcli.text.tokenizer import Tokenizer
from tests.puppet import ASSISTANT, chain, write_puppet
from tests.text.made import KINDS, tokenizer
from tests.tiny import random_ids, save, tiny_model

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")

STOP = 0
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1},
        "more": {"anyOf": [{"type": "null"}, {"type": "object"}]},
    },
    "required": ["name", "age", "tags", "more"],
    "additionalProperties": False,
}
SHORTEST = len('{"name":"ab","age":0,"tags":["red"],"more":{}}')


def said(rule: Rule, of: Tokenizer, *, room: int, seed: int, prefill: str = "", dull: bool = False) -> tuple[str, bool]:
    """What comes of following a rule with random logits, and whether it was complete; a `dull` model never stops."""
    random = torch.Generator().manual_seed(seed)
    constraint = Constraint(rule, of, [STOP], prefill=prefill)
    constraint.begin(room)
    text, detokenizer = "", Detokenizer(of)
    for used in range(room):
        logits = 3 * torch.randn(of.vocab_size, generator=random)
        logits[STOP] = -50.0 if dull else 0.0
        masked = constraint.masked(logits)
        allowed = masked > -torch.inf
        assert allowed.any() and torch.equal(masked[allowed], logits[allowed])
        token = constraint.take(int(masked.argmax()), room - used)
        if token is None or token == STOP:
            break
        text += detokenizer.push(token)
        if constraint.ended:
            break
    return text + detokenizer.finish(), constraint.complete


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return tokenizer("byte")


@settings(max_examples=40)
@given(extra=st.integers(0, 60), seed=st.integers(0, 1000), dull=st.booleans())
def test_json_is_whole_whatever_the_length_limit(byte_level: Tokenizer, extra: int, seed: int, dull: bool) -> None:
    rule = Rule("json-schema", json.dumps(PERSON))
    text, complete = said(rule, byte_level, room=SHORTEST + extra, seed=seed, dull=dull)
    value = json.loads(text)
    assert complete and list(value) == ["name", "age", "tags", "more"]
    assert len(value["name"]) >= 2 and isinstance(value["age"], int) and set(value["tags"]) <= {"red", "green"}


def test_what_cannot_be_said_in_so_few_tokens_is_not_begun(byte_level: Tokenizer) -> None:
    constraint = Constraint(Rule("regex", "a{20}"), byte_level, [STOP])
    with pytest.raises(LlmcliError, match="fits into 3 tokens"):
        constraint.begin(3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["(hello|world)( [a-z]+)*!", " ?[a-z]{3,6}", "[a-z ]{5,}x", "é*ö"])
def test_what_is_shown_matches_the_expression(kind: str, pattern: str) -> None:
    # The third can only be left through a letter that is not the first to be tried.
    if kind == "metaspace" and "é" in pattern:
        pattern = pattern.replace("é", "d").replace("ö", "h")  # it has no other letters
    for seed in range(4):
        text, complete = said(Rule("regex", pattern), tokenizer(kind), room=30, seed=seed, dull=seed % 2 == 0)
        assert complete and re.fullmatch(pattern, text), text


def test_a_grammar(byte_level: Tokenizer) -> None:
    rule = Rule("grammar", 'start: sum\nsum: NUMBER ("+" sum)? | "(" sum ")"\nNUMBER: /[0-9]{1,3}/\n')
    for seed in range(6):
        text, complete = said(rule, byte_level, room=14, seed=seed, dull=True)
        assert complete and text.count("(") == text.count(")") and re.fullmatch(r"[0-9+()]+", text), text


def test_a_prefill_is_the_beginning_of_what_must_match(byte_level: Tokenizer) -> None:
    rule = Rule("json-schema", json.dumps(PERSON))
    text, complete = said(rule, byte_level, room=60, seed=1, prefill='{"name": "Ann', dull=True)
    assert complete and json.loads('{"name": "Ann' + text)["name"].startswith("Ann")
    with pytest.raises(UsageError, match="begins with 'x'"):
        Constraint(rule, byte_level, [STOP], prefill="x")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule("regex", "(a"), "--regex cannot be used: .*unclosed group"),
        (Rule("grammar", "start: foo"), "--grammar cannot be used: .*foo"),
        (Rule("json-schema", "{"), "not JSON"),
        (Rule("json-schema", "[]"), "must be a JSON object"),
        (Rule("json-schema", '{"type": "objekt"}'), "--json-schema cannot be used"),
    ],
)
def test_rules_that_are_none_are_refused(rule: Rule, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        rule.check()


def test_a_missing_library_is_named_with_its_remedy() -> None:
    with mock.patch.dict(sys.modules, {"llguidance": None}), pytest.raises(UsageError, match=r"llmcli\[constrain\]"):
        Rule("regex", "a").check()


def reply(
    loaded: llmcli.LoadedModel, rule: Rule, params: SamplingParams, prompt: list[int]
) -> tuple[str, list[Step], Finish]:
    constraint = Constraint(rule, loaded.tokenizer, loaded.stop_ids)
    events = list(loaded.engine().stream(prompt, params, top=3, constraint=constraint))
    steps, finish = [event for event in events if isinstance(event, Step)], events[-1]
    assert isinstance(finish, Finish)
    return "".join(step.text for step in steps) + finish.text, steps, finish


def test_the_engine_follows_and_shows_what_the_model_itself_thought(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(b"cat")), dtype="float32")
    text, steps, finish = reply(loaded, Rule("regex", "ca[rb]s?"), SamplingParams(temperature=0), [ASSISTANT])
    assert (text[:2], len(text) in (3, 4), finish.reason) == ("ca", True, "stop")
    assert [step.top[0].text for step in steps[:3]] == ["c", "a", "t"]
    wanted = steps[2].top[0]
    assert (wanted.removed_by, wanted.sampled_prob, steps[2].sampled_prob) == ("constraint", 0, 1)
    assert wanted.logprob == pytest.approx(0, abs=1e-3)
    assert steps[2].logprob is not None and steps[2].logprob < -10
    assert steps[0].top[0].removed_by is None


def test_the_engine_ends_in_time(tmp_path: Path) -> None:
    loaded = llmcli.load(save(tiny_model("llama"), tmp_path), dtype="float32")
    rule = Rule("json-schema", '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}')
    for limit in (8, 11, 15):
        params = SamplingParams(temperature=1.5, top_k=0, top_p=1, seed=limit, max_tokens=limit)
        text, steps, finish = reply(loaded, rule, params, random_ids(9))
        assert "a" in json.loads(text) and len(steps) <= limit and finish.reason in ("stop", "length")
    # The context, too, is a limit.
    text, _, finish = reply(loaded, rule, SamplingParams(temperature=1.5, seed=1), random_ids(128 - 9))
    assert "a" in json.loads(text)
    with pytest.raises(LlmcliError, match="fits into 7 tokens"):
        reply(loaded, rule, SamplingParams(max_tokens=7), random_ids(9))
