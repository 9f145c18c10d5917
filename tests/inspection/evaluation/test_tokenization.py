from __future__ import annotations

import pytest

from llmcli.inspection.evaluation.tokenization import tokenization
from llmcli.text.tokenizer import Tokenizer
from tests.support.text.tokenizers import byte_level_backend, metaspace_backend

BYTE_LEVEL = Tokenizer(byte_level_backend(), {}, source="made")
METASPACE = Tokenizer(metaspace_backend(), {}, source="made")


@pytest.mark.parametrize("text", ["The quick brown fox", "naïve 你好 😀\n", "\x1b[2J <|im_start|>", " "])
def test_bytes_join_to_the_text_and_are_counted(text: str) -> None:
    ids = BYTE_LEVEL.encode(text)
    result = tokenization(BYTE_LEVEL, ids)
    assert [token.id for token in result.tokens] == ids
    assert [token.index for token in result.tokens] == list(range(len(ids)))
    assert b"".join(token.bytes for token in result.tokens if not token.control) == text.encode()
    assert (result.characters, result.bytes) == (len(text), len(text.encode()))


def test_control_tokens_are_distinguished_from_text_with_their_spelling() -> None:
    start = BYTE_LEVEL.token_to_id("<|im_start|>")
    assert start is not None
    typed = tokenization(BYTE_LEVEL, BYTE_LEVEL.encode("<|im_start|>", add_special_tokens=False))
    assert not any(token.control for token in typed.tokens)
    assert (typed.characters, typed.bytes) == (12, 12)
    real = tokenization(BYTE_LEVEL, [start])
    assert [token.control for token in real.tokens] == [True]
    assert (real.characters, real.bytes) == (0, 0)


def test_pieces_are_the_vocabularys_own_spelling() -> None:
    for tokenizer, mark in ((BYTE_LEVEL, "Ġ"), (METASPACE, "▁")):
        ids = tokenizer.encode("over the", add_special_tokens=False)
        found = [token for token in tokenization(tokenizer, ids).tokens if token.bytes.startswith(b" ")]
        assert found
        assert all(token.piece == token.text.replace(" ", mark) for token in found)


def test_an_empty_text_has_no_tokens() -> None:
    result = tokenization(BYTE_LEVEL, [])
    assert (result.tokens, result.characters, result.bytes) == ((), 0, 0)
