"""Vocabularies in the style of tiktoken, compared with a direct implementation of its algorithm."""

from __future__ import annotations

import base64
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment
from llmcli.text.vocab.bpe.pretokenizers import KIMI_WORDS, LLAMA3_WORDS, QWEN2_WORDS, TEKKEN_WORDS
from llmcli.text.vocab.bpe.tiktoken import HUNYUAN, KIMI, LLAMA3
from llmcli.text.vocab.load import tokenizer_from_model_file, tokenizer_from_tekken
from tests.support.text.rank_vocabularies import cut, lines, ranked, tekken_data
from tests.support.text.strings import many_texts

TEXTS = many_texts(300)
# Tokens of the small vocabulary.
SMALL = 507


def rank_bpe(words: str, tokens: Iterable[bytes], text: str) -> list[int]:
    """tiktoken's algorithm: a word that is a token is that token; else join the pair of lowest rank, leftmost first."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    ids = []
    for word in cut(words, text):
        parts = [word] if word in ranks else [bytes([byte]) for byte in word]
        while len(parts) > 1:
            pairs = [(ranks[left + right], at) for at, (left, right) in enumerate(itertools.pairwise(parts))
                     if left + right in ranks]  # fmt: skip
            if not pairs:
                break
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def tekken(**changes: Any) -> Tokenizer:
    return tokenizer_from_tekken(json.dumps(tekken_data(**changes)), source="tekken.json")


def test_tekken_ids_are_ranks_after_the_control_tokens() -> None:
    ours, tokens = tekken(), ranked(TEKKEN_WORDS)
    assert ours.vocab_size == len(tokens) + 30
    for text in [*TEXTS, "SHOUTING", "SHOUTINGS"]:
        ids = [rank + 30 for rank in rank_bpe(TEKKEN_WORDS, tokens, text)]
        assert ours.encode(text) == [1, *ids]
        assert ours.decode(ids) == text
    assert [ours.token_bytes(30 + rank) for rank in range(len(tokens))] == list(tokens)


def test_control_tokens_of_the_first_tekken_files_are_known() -> None:
    ours = tekken()
    assert ours.special_tokens == {
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"
    }  # fmt: skip
    assert [ours.piece(token) for token in (0, 1, 2, 3, 4, 17, 20, 29)] == [
        "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "<SPECIAL_20>", "<SPECIAL_29>"
    ]  # fmt: skip
    assert all(ours.is_special(token) for token in range(30))
    assert ours.encode_segments([TextSegment("[INST]", True), TextSegment("[INST]", False)])[0] == 3
    assert not [token for token in ours.encode("[INST]</s>", add_special_tokens=False) if ours.is_added(token)]


def test_listed_control_tokens_have_their_ids() -> None:
    listed = [
        {"rank": 0, "token_str": "<unk>", "is_control": True},
        {"rank": 1, "token_str": "<s>", "is_control": True},
        {"rank": 5, "token_str": "[THINK]", "is_control": False},
    ]
    ours = tekken(special_tokens=listed)
    assert [ours.piece(token) for token in (1, 2, 5)] == ["<s>", "<SPECIAL_2>", "[THINK]"]
    assert (ours.is_special(5), ours.is_added(5)) == (False, True)
    assert ours.eos_id is None


def test_an_ordinary_token_spelled_like_a_control_token_is_left_out() -> None:
    data = tekken_data()
    rank = len(data["vocab"]) - 2
    for entry, token in zip(data["vocab"][rank - 1 :], (b"<s", b"<s>"), strict=False):
        entry["token_bytes"] = base64.b64encode(token).decode()
    ours = tokenizer_from_tekken(json.dumps(data), source="tekken.json")
    ids = ours.encode("<s>", add_special_tokens=False)
    assert 1 not in ids
    assert ours.decode(ids) == "<s>"
    assert ours.token_to_id("<s>") == 1


TEKKEN_FAULTS: list[dict[str, Any]] = [
    {"config": None},
    {"config": {"pattern": None}},
    {"config": {"pattern": "(["}},
    {"config": {"default_vocab_size": "131072"}},
    {"config": {"default_vocab_size": 10**6}},
    {"config": {"default_vocab_size": 10}},
    {"config": {"default_num_special_tokens": True}},
    {"config": {"default_num_special_tokens": 10**6}},
    {"vocab": None},
    {"vocab": {}},
    {"vocab": [1] * 600},
    {"vocab": [{"rank": 0, "token_bytes": "AA=="}] * 600},
    {"vocab": [{"rank": rank, "token_bytes": "AA=="} for rank in range(600)]},
    {"vocab": [{"rank": rank, "token_bytes": "*"} for rank in range(600)]},
    {"vocab": [{"rank": rank, "token_bytes": ""} for rank in range(600)]},
    {"vocab": [{"rank": rank, "token_bytes": 7} for rank in range(600)]},
    {"vocab": [{"rank": r, "token_bytes": base64.b64encode(r.to_bytes(2, "big")).decode()} for r in range(600)]},
    {"vocab": [{"rank": rank, "token_bytes": "A" * 4000} for rank in range(600)]},
    {"special_tokens": {}},
    {"special_tokens": ["<s>"]},
    {"special_tokens": [{"rank": -1, "token_str": "<s>"}]},
    {"special_tokens": [{"rank": 30, "token_str": "<s>"}]},
    {"special_tokens": [{"rank": 0, "token_str": ""}]},
    {"special_tokens": [{"rank": 0, "token_str": "a"}, {"rank": 1, "token_str": "a"}]},
]


@pytest.mark.parametrize("fault", TEKKEN_FAULTS)
def test_a_damaged_tekken_file_is_named(fault: dict[str, Any]) -> None:
    data = tekken_data(**fault) if fault.get("config", {}) is not None else tekken_data() | fault
    with pytest.raises(CheckpointError, match=r"here/tekken\.json"):
        tokenizer_from_tekken(json.dumps(data), source="here/tekken.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10_000, "<!DOCTYPE html>"])
def test_other_json_is_refused_as_tekken(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"here/tekken\.json"):
        tokenizer_from_tekken(text, source="here/tekken.json")


@pytest.fixture
def small_llama3() -> tuple[bytes, ...]:
    """A small vocabulary in the place of Llama 3's."""
    return ranked(LLAMA3_WORDS)


def llama3(data: bytes, config: Mapping[str, object] | None = None, *, count: int | None = SMALL) -> Tokenizer:
    vocabulary = replace(LLAMA3, count=count)
    return tokenizer_from_model_file(
        data, source="here/tokenizer.model", tokenizer_config=config, vocabulary=vocabulary
    )


def test_llama3_ids_are_ranks_and_control_tokens_follow(small_llama3: tuple[bytes, ...]) -> None:
    ours, size = llama3(lines(small_llama3)), len(small_llama3)
    assert ours.vocab_size == size + 256
    for text in [*TEXTS, "SHOUTING"]:
        ids = rank_bpe(LLAMA3_WORDS, small_llama3, text)
        assert ours.encode(text) == [size, *ids]
        assert ours.decode(ids) == text
    assert [ours.piece(size + place) for place in (0, 1, 2, 5, 6, 7, 8, 9, 10, 255)] == [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_3|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
        "<|reserved_special_token_5|>", "<|reserved_special_token_250|>",
    ]  # fmt: skip
    assert (ours.bos_id, ours.eos_id) == (size, size + 1)
    assert ours.encode_segments([TextSegment("<|eot_id|>", True), TextSegment("<|eot_id|>", False)])[0] == size + 9


def test_later_versions_of_llama3_rename_reserved_tokens(small_llama3: tuple[bytes, ...]) -> None:
    place = len(small_llama3) + 8
    listed = {str(place): {"content": "<|eom_id|>", "special": True}}
    ours = llama3(lines(small_llama3), {"added_tokens_decoder": listed, "eos_token": "<|eot_id|>"})
    assert ours.token_to_id("<|eom_id|>") == place
    assert ours.eos_id == place + 1
    assert ours.vocab_size == len(small_llama3) + 256


def test_another_vocabulary_in_this_format_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=f"{SMALL} tokens"):
        llama3(lines(ranked(LLAMA3_WORDS)), count=LLAMA3.count)


def test_control_tokens_of_kimi_are_named_beside_the_vocabulary() -> None:
    tokens = ranked(KIMI_WORDS)
    size = len(tokens)
    listed = {
        str(size): {"content": "[BOS]", "special": True},
        str(size + 2): {"content": "<|im_end|>", "special": True},
        str(size + 22): {"content": "<think>", "special": False},
    }
    config = {"added_tokens_decoder": listed, "bos_token": "[BOS]", "eos_token": "<|im_end|>"}
    ours = tokenizer_from_model_file(
        lines(tokens), source="here/tiktoken.model", tokenizer_config=config, vocabulary=KIMI
    )
    assert ours.vocab_size == size + 256
    for text in [*TEXTS[:100], "SHOUTING", "漢字kanji", "don't HelloWorld"]:
        ids = rank_bpe(KIMI_WORDS, tokens, text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text
    assert (ours.bos_id, ours.eos_id) == (size, size + 2)
    assert ours.piece(size + 1) == f"<|reserved_token_{size + 1}|>"
    assert ours.decode([size + 2, size + 22], skip_special=True) == "<think>"


def test_hunyuans_vocabulary_is_counted_without_repeated_tokens() -> None:
    tokens = ranked(QWEN2_WORDS)
    size = len(tokens)
    data = lines([*tokens[:300], tokens[5], *tokens[300:]])
    ours = tokenizer_from_model_file(data, source="here/hy.tiktoken", vocabulary=HUNYUAN)
    assert ours.vocab_size == size + 210
    for text in TEXTS[:100]:
        composed = unicodedata.normalize("NFC", text)
        assert ours.encode(text) == rank_bpe(QWEN2_WORDS, tokens, composed)
    assert ours.encode("e\u0301") == ours.encode("\u00e9")
    assert [ours.piece(size + place) for place in (0, 1, 3, 5, 209)] == [
        "<|endoftext|>", "<|startoftext|>", "<|eos|>", "<|extra_0|>", "<|extra_204|>",
    ]  # fmt: skip
    assert (ours.bos_id, ours.eos_id) == (size + 1, size + 3)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb"\n.*\n", b"\nnonsense\n"),
        (rb"\n\S+ 1\n", b"\n"),
        (rb"\n\S+ 1\n", b"\nAA== 1\n"),
        (rb"\n\S+ 1\n", b"\nA 1\n"),
        (rb"\n\S+ 1\n", b"\nAQ== 0\n"),
        (rb"\n.*\n", b"\nAQ== 99999999999999\n"),
        (rb" 1\n", b" \xff\n"),
    ],
)
def test_a_damaged_llama3_file_is_named(small_llama3: tuple[bytes, ...], pattern: bytes, replacement: bytes) -> None:
    data = re.sub(pattern, lambda _: replacement, lines(small_llama3), count=1)
    with pytest.raises(CheckpointError, match=r"here/tokenizer\.model"):
        llama3(data)
