from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.text.detokenizer import Detokenizer
from tests.support.text.tokenizers import KINDS, TEXTS, tokenizer


def pieces(kind: str, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer(kind))
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_of_any_ids_join_to_one_decode(kind: str, data: st.DataObject) -> None:
    ours = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(-1, ours.vocab_size + 1)))
    assert "".join(pieces(kind, ids)) == ours.decode(ids)


@pytest.mark.parametrize("kind", ["byte", "sentencepiece", "gemma"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_text_join_to_it_and_hold_no_half_characters(kind: str, text: str) -> None:
    shown = pieces(kind, tokenizer(kind).encode(text))
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown)


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
def test_an_unfinished_character_appears_at_the_end(kind: str) -> None:
    ours = tokenizer(kind)
    ids = ours.encode("🦆", add_special_tokens=False)[:-1]
    shown = pieces(kind, ids)
    assert set(shown[:-1]) <= {"", " "}
    assert shown[-1] == "\ufffd"
