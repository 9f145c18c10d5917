from __future__ import annotations

import base64
import json

import pytest
from tokenizers import Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.expansion_limit import growth, pairs_of, refuse_growth
from llmcli.text.token_bytes import PieceDecoder


def charsmap(*texts: str) -> bytes:
    """A table with an empty trie and this replacement."""
    return (0).to_bytes(4, "little") + b"".join(text.encode() + b"\0" for text in texts)


def written(**rules: object) -> str:
    return json.dumps({"model": {"vocab": {}, "merges": []}, **rules})


@pytest.mark.parametrize(
    "rule",
    [
        normalizers.Replace("ab", "xyzxyz"),
        normalizers.Replace(Regex("a+"), "xyz"),
        normalizers.Prepend("abc"),
        normalizers.Sequence(
            [normalizers.Prepend("a"), normalizers.Replace("a", "bb"), normalizers.Replace("b", "cc")]
        ),
        normalizers.Sequence([normalizers.Replace(sign, "a") for sign in "0123456789"] * 3),
    ],
    ids=["text", "expression", "in front", "several", "many"],
)
def test_no_text_grows_more_than_the_computed_factor(rule: normalizers.Normalizer) -> None:
    factor = growth(pairs_of(rule.__getstate__()))
    for text in ("a", "ab", "abab", "a0a1", "aaaa"):
        assert len(rule.normalize_str(text)) <= factor * len(text)
    assert factor <= 8


@pytest.mark.parametrize(
    "spelled",
    ['"normalizer"', '"normalize\\u0072"', '"normalizer" \n\t', '"normalizer": null, "normalizer"'],
    ids=["plain", "in code", "with spaces", "twice"],
)
@pytest.mark.parametrize(
    "rule",
    [
        {"type": "Prepend", "prepend": "x" * 2000},
        {"prepend": "x" * 2000},
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap("a", "x" * 2000)).decode()},
        {"normalizers": [{"pattern": {"String": "a"}, "content": "a" * 40}] * 2},
    ],
    ids=["prepend", "without its kind", "table", "several"],
)
def test_an_expanding_rule_is_found_in_any_json_spelling(spelled: str, rule: object) -> None:
    text = written(normalizer=rule).replace('"normalizer"', spelled, 1)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has rules that make a text up to"):
        refuse_growth(text, source="tokenizer.json")


def test_the_larger_value_of_a_duplicate_key_counts() -> None:
    twice = '{"pattern": {"String": "a"}, "content": "' + "a" * 2000 + '", "content": "a"}'
    with pytest.raises(CheckpointError, match="2000 times"):
        refuse_growth(written(normalizer=None).replace("null", twice), source="tokenizer.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"normalizer": ', "[" * 100_000, '{"normalizer": ' + "[" * 100_000])
def test_invalid_json_is_left_to_the_library(text: str) -> None:
    refuse_growth(text, source="tokenizer.json")
    refuse_growth(f"{text}\\u00", source="tokenizer.json")


def test_an_expanding_decoder_is_refused() -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    steps = [decoders.Replace("a", "a" * 1000)] * 4
    backend.decoder = decoders.Sequence([*steps, decoders.ByteFallback(), decoders.Fuse()])
    with pytest.raises(CheckpointError, match="1000000000000 times longer"):
        PieceDecoder(backend, source="tokenizer.json")
