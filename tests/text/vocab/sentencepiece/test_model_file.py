from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment
from llmcli.text.vocab.load import tokenizer_from_model_file
from llmcli.text.vocab.sentencepiece.model_file import read_sentencepiece_model
from tests.support.text.sentencepiece_files import trained
from tests.support.text.strings import many_texts

TEXTS = many_texts(300)
RULES = [(True, False, "identity"), (False, False, "identity"), (True, True, "nmt_nfkc"), (False, True, "identity")]


def reference(data: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=data)


def equally_probable(model: Any, ids: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two ways to cut a text into pieces have the same number of them, and the same score."""
    scores = [sum(map(model.get_score, cut)) for cut in (ids, others)]
    return len(ids) == len(others) and math.isclose(*scores, rel_tol=1e-6, abs_tol=1e-6)


def made(data: bytes, **config: object) -> Tokenizer:
    return tokenizer_from_model_file(data, source="tokenizer.model", tokenizer_config=config)


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize(("prefix", "collapse", "rule"), RULES)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_and_text_are_those_of_sentencepiece(
    kind: str, prefix: bool, collapse: bool, rule: str, byte_fallback: bool
) -> None:
    data = trained(kind, prefix, collapse, rule, byte_fallback)
    ours, theirs = made(data), reference(data)
    for text in TEXTS:
        ids = theirs.encode(text)
        found = ours.encode(text, add_special_tokens=False)
        # Of cuts that are equally probable, the two implementations of unigram models may choose different ones.
        assert found == ids or (kind == "unigram" and equally_probable(theirs, found, ids))
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
@settings(max_examples=30, deadline=None)
def test_any_text_survives_a_round_trip(kind: str, text: str) -> None:
    ours = made(trained(kind))
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_properties_of_tokens(kind: str) -> None:
    data = trained(kind)
    ours, theirs = made(data), reference(data)
    assert ours.vocab_size == theirs.get_piece_size()
    assert [ours.piece(token) for token in range(ours.vocab_size)] == [
        theirs.id_to_piece(token) for token in range(ours.vocab_size)
    ]
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id(), theirs.eos_id())
    assert ours.special_tokens == {
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"
    }  # fmt: skip
    special = [token for token in range(ours.vocab_size) if ours.is_special(token)]
    assert special == [t for t in range(ours.vocab_size) if theirs.is_control(t) or theirs.is_unknown(t)]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("text", ["</s>", "<|im_end|>", "<think>", "<0x41>", "<unk>", "a<pad>b"])
def test_spellings_of_control_tokens_are_text(kind: str, text: str) -> None:
    ours = made(trained(kind))
    ids = ours.encode(text, add_special_tokens=False)
    assert not [token for token in ids if ours.is_added(token)]
    assert ours.decode(ids, skip_special=False) == text


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ({}, ["bos", "a"]),
        ({"add_bos_token": None, "add_eos_token": None}, ["bos", "a"]),
        ({"add_bos_token": False}, ["a"]),
        # A text to continue has not ended.
        ({"add_eos_token": True}, ["bos", "a"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["a"]),
    ],
)
def test_flags_decide_about_bos_before_raw_text(config: dict[str, object], pattern: Sequence[str]) -> None:
    ours = made(trained("bpe"), **config)
    names = {ours.bos_id: "bos", ours.eos_id: "eos", ours.token_to_id("▁a"): "a"}
    assert [names[token] for token in ours.encode("a")] == pattern


@pytest.mark.parametrize(
    ("config", "pieces"),
    [
        ({}, ["▁a", "<|im_end|>", "▁a"]),
        ({"legacy": True}, ["▁a", "<|im_end|>", "▁a"]),
        ({"legacy": False}, ["▁a", "<|im_end|>", "a"]),
        ({"add_prefix_space": False}, ["a", "<|im_end|>", "a"]),
    ],
)
def test_flags_decide_about_the_leading_space(config: dict[str, object], pieces: list[str]) -> None:
    ours = made(trained("bpe"), **config)
    ids = ours.encode_segments([TextSegment("a<|im_end|>a", True)])
    assert [ours.piece(token) for token in ids] == pieces


def test_without_legacy_plain_text_still_equals_sentencepiece() -> None:
    data = trained("bpe")
    ours, theirs = made(data, legacy=False), reference(data)
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)
        ids = ours.encode("x", add_special_tokens=False)
        ids += ours.encode_segments([TextSegment(text, False)], continuation=True)
        assert ours.decode(ids) == "x" + text.replace("▁", " ")


def test_tokens_listed_in_other_files_are_added_and_have_roles() -> None:
    data = trained("bpe")
    size = made(data).vocab_size
    ours = tokenizer_from_model_file(
        data,
        source="tokenizer.model",
        tokenizer_config={
            "added_tokens_decoder": {
                "2": {"content": "</s>", "special": True},
                str(size): {"content": "<|call|>", "special": True},
            },
            "eos_token": "<|im_end|>",
        },
        special_tokens_map={"eos_token": "</s>"},
        added_tokens={"<tool>": size + 1},
    )
    assert ours.encode_segments([TextSegment("<|call|><tool>", True)]) == [size, size + 1]
    assert (ours.is_special(size), ours.is_special(size + 1)) == (True, False)
    assert ours.special_tokens["eos_token"] == "<|im_end|>"
    assert ours.special_tokens["bos_token"] == "<s>"


# The format, as far as the faults below need it.
def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([*varint(number << 3), *varint(value)])
    return bytes([*varint(number << 3 | 2), *varint(len(value))]) + value


def varint(value: int) -> list[int]:
    return [value] if value < 128 else [value & 127 | 128, *varint(value >> 7)]


def piece(text: bytes, kind: int = 1, score: bytes = b"\0\0\0\0") -> bytes:
    return field(1, field(1, text) + bytes([2 << 3 | 5]) + score + field(3, kind))


UNKNOWN = piece(b"<unk>", 2)
BPE = field(2, field(3, 2))


def test_format_defaults_are_used() -> None:
    model = read_sentencepiece_model(UNKNOWN + field(1, field(1, b"a")), source="m")
    assert (model.kind, model.byte_fallback, model.add_dummy_prefix, model.remove_extra_spaces) == (
        1,
        False,
        True,
        True,
    )
    assert (model.vocabulary.tokens, model.vocabulary.types) == (["<unk>", "a"], [2, 1])
    assert model.roles == {"unk_token": "<unk>"}


def test_names_of_roles_come_from_the_file() -> None:
    trainer = field(2, field(46, b"<begin>") + field(47, b"a") + field(3, 2))
    model = read_sentencepiece_model(UNKNOWN + piece(b"<begin>", 3) + piece(b"a") + trainer, source="m")
    # An ordinary token does not end a text.
    assert model.roles == {"unk_token": "<unk>", "bos_token": "<begin>"}


def test_pieces_that_are_not_text_get_a_name() -> None:
    ours = made(UNKNOWN + piece(b"") + piece(b"\xff") + BPE)
    assert [ours.piece(1), ours.piece(2)] == ["[EMPTY_1]", "[INVALID_2]"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 499723\n",
        b"\x80" * 100,
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0b\x0c",
        field(1, b"\x0a\x05ab"),
        BPE,
        UNKNOWN + UNKNOWN + BPE,
        UNKNOWN + piece(b"a", score=b"\0\0\xc0\x7f") + BPE,
        UNKNOWN + piece(b"a" * 600) + BPE,
        UNKNOWN + piece(b"$x:y", 3) + BPE + field(2, field(46, b"$x:y")),
        piece(b"a") + BPE,
        piece(b"a"),
        UNKNOWN + piece(b"a") + BPE + field(3, field(2, b"\xff\xff\xff\xff\x00\x01")),
    ],
)
def test_damaged_files_are_named(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"here/tokenizer\.model"):
        tokenizer_from_model_file(data, source="here/tokenizer.model")


@pytest.mark.parametrize("flag", ["add_bos_token", "legacy", "add_prefix_space"])
def test_a_flag_that_is_not_a_boolean_is_refused(flag: str) -> None:
    with pytest.raises(CheckpointError, match=flag):
        made(trained("bpe"), **{flag: "yes"})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (field(2, field(3, 3)), "words"),
        (field(2, field(3, 4)), "characters"),
        (field(2, field(3, 9)), "unknown kind"),
        (field(2, field(24, 1)), "other spaces"),
        (field(3, field(5, 0)), "other spaces"),
    ],
)
def test_other_kinds_are_refused_by_name(more: bytes, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        made(UNKNOWN + more)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_file_cut_anywhere_is_an_error_or_a_smaller_vocabulary(kind: str) -> None:
    data = trained(kind, True, True, "nmt_nfkc")
    cuts = [*range(0, 200, 3), *range(200, len(data), len(data) // 30)]
    for cut in cuts:
        try:
            ours = made(data[:cut])
        except CheckpointError:
            continue
        assert 0 < ours.vocab_size < 800
