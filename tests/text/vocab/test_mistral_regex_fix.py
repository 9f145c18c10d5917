from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.bpe.pretokenizers import LLAMA3_WORDS, TEKKEN_WORDS
from llmcli.text.vocab.load import tokenizer_from_json
from tests.support.text.rank_vocabularies import converted


def read(backend: Backend) -> Tokenizer:
    return tokenizer_from_json(backend.to_str(), source="here/tokenizer.json")


def test_the_wrong_rule_is_replaced_with_a_note() -> None:
    mended, right = read(converted(LLAMA3_WORDS)), read(converted(TEKKEN_WORDS))
    assert mended.encode("12") == right.encode("12") == [1000 + ord("1"), 1000 + ord("2")]
    assert right.notes == ()
    (note,) = mended.notes
    assert "here/tokenizer.json" in note


@pytest.mark.parametrize(
    "control",
    [
        ["<unk>", "<s>", "</s>", "[INST]", "[END]"],
        ["<|begin_of_text|>", "<s>", "</s>", "[/INST]", "[INST]"],
    ],
)
def test_other_vocabularies_keep_their_rule(control: list[str]) -> None:
    ours = read(converted(LLAMA3_WORDS, control))
    assert ours.encode("12") == [1256]
    assert ours.notes == ()


@pytest.mark.parametrize("pre", [None, pre_tokenizers.ByteLevel(), pre_tokenizers.Sequence([])])
def test_other_rules_are_kept(pre: pre_tokenizers.PreTokenizer | None) -> None:
    backend = converted(LLAMA3_WORDS)
    backend.pre_tokenizer = pre
    ours = read(backend)
    assert ours.encode("12") == backend.encode("12").ids
    assert ours.notes == ()
