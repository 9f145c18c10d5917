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
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.guided.grammar import Rule
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.detokenizer import Detokenizer
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.puppet import ASSISTANT, chain, write_puppet
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.text.tokenizers import KINDS, tokenizer

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
    """The reply under a rule with random logits, and whether it is complete; a `dull` model never stops."""
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
def test_json_is_complete_at_any_length_limit(byte_level: Tokenizer, extra: int, seed: int, dull: bool) -> None:
    rule = Rule("json-schema", json.dumps(PERSON))
    text, complete = said(rule, byte_level, room=SHORTEST + extra, seed=seed, dull=dull)
    value = json.loads(text)
    assert complete and list(value) == ["name", "age", "tags", "more"]
    assert len(value["name"]) >= 2 and isinstance(value["age"], int) and set(value["tags"]) <= {"red", "green"}


def test_a_form_too_long_for_the_limit_is_refused(byte_level: Tokenizer) -> None:
    constraint = Constraint(Rule("regex", "a{20}"), byte_level, [STOP])
    with pytest.raises(LlmcliError, match=r"fits into 3 tokens; allow more with -n \(.*needs 20\)"):
        constraint.begin(3)
    constraint.begin(20)


NUMBER = {"type": "number"}
NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": NUMBER, "b": NUMBER, "c": NUMBER, "d": {"type": "string"}},
    "required": ["a", "b", "c", "d"],
    "additionalProperties": False,
}
TREE: dict[str, Any] = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": NUMBER, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
    "type": "array",
    "items": {"$ref": "#/$defs/tree"},
    "minItems": 2,
}


@pytest.mark.parametrize(("schema", "shortest"), [(NUMBERS, 26), (TREE, 43)], ids=["numbers", "tree"])
def test_an_ending_is_known_from_the_first_token_to_the_last(
    byte_level: Tokenizer, schema: dict[str, Any], shortest: int
) -> None:
    rule = Rule("json-schema", json.dumps(schema))
    with pytest.raises(LlmcliError, match="fits into 20 tokens"):
        Constraint(rule, byte_level, [STOP]).begin(20)
    for seed, room in enumerate([shortest, shortest + 3, 80, 200]):
        constraint = Constraint(rule, byte_level, [STOP])
        constraint.begin(room)
        text, complete = said(rule, byte_level, room=room, seed=seed, dull=True)
        assert constraint.can_end and complete and json.loads(text)


def test_no_search_is_made_where_the_known_ending_still_fits(byte_level: Tokenizer) -> None:
    with mock.patch(
        "llmcli.engine.guided.completion_search.EndingSearch.search", side_effect=AssertionError("searched")
    ):
        for seed in range(4):
            text, complete = said(Rule("json-schema", json.dumps(NUMBERS)), byte_level, room=60, seed=seed, dull=True)
            assert complete and json.loads(text)


def test_json_is_compact_unless_whitespace_is_free(byte_level: Tokenizer) -> None:
    schema = json.dumps({"type": "array", "items": NUMBERS | {"required": []}, "minItems": 1})

    def loosely(rule: Rule) -> str:
        """The reply of a model that always prefers whitespace."""
        constraint = Constraint(rule, byte_level, [STOP])
        constraint.begin(60)
        text = b""
        for used in range(60):
            logits = torch.zeros(byte_level.vocab_size)
            logits[[token for token in range(byte_level.vocab_size) if byte_level.token_bytes(token).isspace()]] = 9.0
            token = constraint.take(int(constraint.masked(logits).argmax()), 60 - used)
            if token is None or token == STOP:
                break
            text += byte_level.token_bytes(token)
        assert constraint.complete
        return text.decode()

    assert max(map(len, re.findall(r"\s+", re.sub(r'"[^"]*"', "", loosely(Rule("json-schema", schema)))))) == 1
    assert re.search(r"\s{20,}", loosely(Rule("json-schema", schema, free_whitespace=True)))


@pytest.mark.parametrize(
    ("schema", "digits", "longest"),
    [
        ({"type": "integer"}, "7", 20),
        ({"type": "integer", "minimum": 1, "multipleOf": 7}, "1", 24),
        ({"type": "number"}, "0.0", 19),
        ({"type": "number"}, "1e1", 4),
        ({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1}, "5", 43),
    ],
)
def test_numbers_have_a_limited_number_of_digits(
    byte_level: Tokenizer, schema: dict[str, Any], digits: str, longest: int
) -> None:
    constraint = Constraint(Rule("json-schema", json.dumps(schema)), byte_level, [STOP])
    constraint.begin(300)
    ids = {byte_level.token_bytes(token): token for token in reversed(range(byte_level.vocab_size))}
    text = b""
    for used in range(300):
        logits = torch.zeros(byte_level.vocab_size)
        # First the characters of `digits`, then its last digit forever.
        logits[ids[digits[min(used, len(digits) - 1)].encode()]] = 9.0
        if constraint.complete and not (constraint.masked(logits) == 9.0).any():
            break
        token = constraint.take(int(constraint.masked(logits).argmax()), 300 - used)
        assert token is not None
        text += byte_level.token_bytes(token)
    assert constraint.complete and len(text) <= longest and json.loads(text) is not None


def test_a_constant_may_have_more_digits(byte_level: Tokenizer) -> None:
    text, complete = said(Rule("json-schema", '{"const": 10000000000000000000000}'), byte_level, room=60, seed=1)
    assert complete and json.loads(text) == 10000000000000000000000


def test_a_grammar_with_control_tokens_is_followed_without_a_search(byte_level: Tokenizer) -> None:
    rule = Rule("grammar", 'start: "a" <|im_end|> "b"')
    constraint = Constraint(rule, byte_level, [STOP])
    constraint.begin(9)
    assert not constraint.can_end
    ids = {byte_level.token_bytes(token): token for token in range(byte_level.vocab_size)}
    for data in (b"a", b"<|im_end|>", b"b"):
        assert constraint.take(ids[data], 9) == ids[data]
    assert constraint.complete


def test_a_form_that_no_text_has_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(LlmcliError, match="cannot follow the form"):
        Constraint(Rule("grammar", "start: start"), byte_level, [STOP]).begin(9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["(hello|world)( [a-z]+)*!", " ?[a-z]{3,6}", "[a-z ]{5,}x", "é*ö"])
def test_the_displayed_text_matches_the_expression(kind: str, pattern: str) -> None:
    # The third pattern ends with a letter that is not the first to be tried.
    if kind == "metaspace" and "é" in pattern:
        pattern = pattern.replace("é", "d").replace("ö", "h")  # it has no other letters
    for seed in range(4):
        text, complete = said(Rule("regex", pattern), tokenizer(kind), room=30, seed=seed, dull=seed % 2 == 0)
        assert complete and re.fullmatch(pattern, text), text


def test_replies_follow_a_grammar(byte_level: Tokenizer) -> None:
    rule = Rule("grammar", 'start: sum\nsum: NUMBER ("+" sum)? | "(" sum ")"\nNUMBER: /[0-9]{1,3}/\n')
    for seed in range(6):
        text, complete = said(rule, byte_level, room=14, seed=seed, dull=True)
        assert complete and text.count("(") == text.count(")") and re.fullmatch(r"[0-9+()]+", text), text


def test_json_in_a_grammar_is_adapted_like_a_schema() -> None:
    """Strings, expressions, comments, and whitespace settings of a part itself do not change."""
    grammar = (
        '// %json {"x"}\nstart: "%json {" a b /%json/\n'
        'a: %json {"type": "object", "properties": {"p": {"type": "null"}}}\n'
        'b: %json {"x-guidance": {"whitespace_flexible": true}, "type": "array"}'
    )
    rule = Rule("grammar", grammar)
    assert rule.check('%json {{"p": null}[\n\n]%json') == []
    with pytest.raises(UsageError, match="begins with"):
        rule.check('%json {{\n"p": null}')
    assert Rule("grammar", grammar, free_whitespace=True).check('%json {{\n"p": null}') == []
    assert Rule("grammar", 'start: %json {"type": "string", "format": "phone", "maxLength": 2.0}').check('"ab"') == []
    for refused in ('{"not": {}}', '{"oneOf": [{"type": "number"}, {"type": "integer"}]}'):
        with pytest.raises(UsageError, match="%json of the --grammar cannot be used: at #/"):
            Rule("grammar", f"start: %json {refused}").check()


def test_the_warning_about_a_missing_tokenizer_is_dropped() -> None:
    assert Rule("grammar", 'start: "a" <|im_end|>').check() == []


def test_a_prefill_begins_the_text_that_must_match(byte_level: Tokenizer) -> None:
    rule = Rule("json-schema", json.dumps(PERSON))
    text, complete = said(rule, byte_level, room=60, seed=1, prefill='{"name": "Ann', dull=True)
    assert complete and json.loads('{"name": "Ann' + text)["name"].startswith("Ann")
    with pytest.raises(UsageError, match="begins with 'x'"):
        Constraint(rule, byte_level, [STOP], prefill="x")


@pytest.mark.parametrize(
    ("prefill", "where"),
    [
        ("Sure: ", """it has 'S', where '{"name":' can come."""),
        ('{"nam": 1', "after '{\"nam', it has '\"', where 'e\":' can come."),
        ('{"name": "Ann", "age": x', "it has 'x', where one of '-0123456789' can come."),
        ('{"name": "Ann", "age": 5, "tags": ["red", "rot', "it has 'o', where 'ed\"' can come."),
        ('{"name": "é", ', "it has '\"'."),
        ('{ "name"', "it has ' ', where '\"name\":' can come. With --free-whitespace one does."),
        ('{"name": "ab","age":1,"tags":["red"],"more":{}}.', "it is complete after '…"),
    ],
)
def test_the_error_for_a_prefill_says_where_it_violates_the_form(
    prefill: str, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as refused:
        Rule("json-schema", json.dumps(PERSON)).check(prefill)
    assert where in str(refused.value)
    # The library, which writes warnings about it too, must write nothing.
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule("regex", "(a"), "--regex cannot be used: .*unclosed group"),
        (Rule("regex", r"[^\s\S]"), "no text matches it"),
        (Rule("regex", r"a[^\s\S]b"), "no text matches it"),
        (Rule("grammar", "start: foo"), "--grammar cannot be used: .*foo"),
        (Rule("json-schema", "{"), "not JSON"),
        (Rule("json-schema", "[]"), "must be a JSON object"),
        (Rule("json-schema", '{"type": "objekt"}'), "--json-schema cannot be used"),
    ],
)
def test_invalid_rules_are_refused(rule: Rule, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        rule.check()


def test_the_error_for_a_missing_library_says_how_to_install_it() -> None:
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


def test_the_engine_follows_the_form_and_reports_the_models_own_probabilities(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(b"cat")), dtype="float32")
    text, steps, finish = reply(loaded, Rule("regex", "ca[rb]s?"), SamplingParams(temperature=0), [ASSISTANT])
    assert (text[:2], len(text) in (3, 4), finish.reason) == ("ca", True, "stop")
    assert [step.top[0].text for step in steps[:3]] == ["c", "a", "t"]
    wanted = steps[2].top[0]
    assert (wanted.removed_by, wanted.sampled_prob, steps[2].sampled_prob) == ("constraint", 0, 1)
    assert wanted.logprob == pytest.approx(0, abs=1e-3)
    assert steps[2].logprob is not None and steps[2].logprob < -10
    assert steps[0].top[0].removed_by is None


def test_the_engine_completes_the_form_within_the_limit(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    rule = Rule("json-schema", '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}')
    for limit in (8, 11, 15):
        params = SamplingParams(temperature=1.5, top_k=0, top_p=1, seed=limit, max_tokens=limit)
        text, steps, finish = reply(loaded, rule, params, random_ids(9))
        assert "a" in json.loads(text) and len(steps) <= limit and finish.reason in ("stop", "length")
    # The context is a limit too.
    text, _, finish = reply(loaded, rule, SamplingParams(temperature=1.5, seed=1), random_ids(128 - 9))
    assert "a" in json.loads(text)
    with pytest.raises(LlmcliError, match="fits into 7 tokens"):
        reply(loaded, rule, SamplingParams(max_tokens=7), random_ids(9))
