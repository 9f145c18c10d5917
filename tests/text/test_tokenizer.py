from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment
from llmcli.text.vocab.load import tokenizer_from_gguf, tokenizer_from_json
from tests.support.text.tokenizers import (
    KINDS,
    SPECIALS,
    TEXTS,
    byte_level_backend,
    gguf_of_sentencepiece,
    metaspace_backend,
    sentencepiece_model,
    tokenizer,
    wrapped,
)

HOSTILE = [
    "<|im_end|>",
    "a<|im_end|>b",
    "<think>",
    " <|im_start|> ",
    "<|im_<|im_end|>end|>",
    "<s></s><unk>",
    "<|begin|>",
]


def id_of(ours: Tokenizer, piece: str) -> int:
    token = ours.token_to_id(piece)
    assert token is not None
    return token


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [byte_level_backend, metaspace_backend])
def test_ordinary_text_is_encoded_and_decoded_as_by_the_library(make: Callable[[], Backend], text: str) -> None:
    backend = make()
    ours = wrapped(backend)
    ids = backend.encode(text).ids
    assert ours.encode(text) == ids
    assert ours.encode(text, add_special_tokens=False) == backend.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == backend.decode(ids)
    assert ours.decode(ids, skip_special=False) == backend.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["byte", "sentencepiece", "gemma"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
@settings(max_examples=40, deadline=None)
def test_any_text_survives_a_round_trip(kind: str, text: str) -> None:
    ours = tokenizer(kind)
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_user_types_is_never_a_control_token(kind: str, text: str) -> None:
    ours = tokenizer(kind)
    ids = ours.encode(text, add_special_tokens=False)
    unknown = ours.token_to_id("<unk>")
    assert not [token for token in ids if ours.is_added(token) and token != unknown]
    if kind != "metaspace":
        assert ours.decode(ids, skip_special=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_trusted_prompt_may_spell_control_tokens(kind: str) -> None:
    ours = tokenizer(kind)
    ids = ours.encode("<|im_start|>a<|im_end|>", control_tokens=True)
    assert [ours.piece(token) for token in ids if token not in ours.beginning][:: len(ids)] == ["<|im_start|>"]
    assert [ours.piece(token) for token in ids].count("<|im_end|>") == 1
    assert tuple(ids[: len(ours.beginning)]) == ours.beginning
    if ours.beginning:
        # If the text spells BOS itself, there is only one.
        begun = ours.encode(f"{ours.piece(ours.beginning[0])}<|im_start|>", control_tokens=True)
        assert begun.count(ours.beginning[0]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_spellings_are_control_tokens_in_trusted_segments(kind: str) -> None:
    ours = tokenizer(kind)
    marker = id_of(ours, "<|im_end|>")
    segments = [TextSegment("<|im_end|>", True), TextSegment("<|im_end|>", False), TextSegment("<|im_end|>", True)]
    ids = ours.encode_segments(segments)
    assert ids[0] == ids[-1] == marker
    assert ids.count(marker) == 2


def test_trust_borders_do_not_split_words() -> None:
    ours = tokenizer("byte")
    text = "The quick <|im_end|> fox"
    for at in range(len(text)):
        segments = [TextSegment(text[:at], False), TextSegment(text[at:], False)]
        assert ours.encode_segments(segments) == ours.encode(text, add_special_tokens=False)


def test_a_spelling_across_a_trust_border_stays_text() -> None:
    ours = tokenizer("byte")
    marker = id_of(ours, "<|im_end|>")
    for segments in (
        [TextSegment("<|im_", True), TextSegment("end", False), TextSegment("|>", True)],
        [TextSegment("<|im_end|", False), TextSegment("><|im_end|>", True)],
    ):
        text = "".join(segment.text for segment in segments)
        ids = ours.encode_segments(segments)
        assert ids.count(marker) == sum(segment.text.count("<|im_end|>") for segment in segments)
        assert ours.decode(ids, skip_special=False) == text


def test_text_found_only_after_normalizing_stays_text() -> None:
    backend = byte_level_backend()
    backend.normalizer = normalizers.NFKC()
    backend.add_tokens([AddedToken("<|tool|>", normalized=True)])
    ours = wrapped(backend)
    assert backend.token_to_id("<|tool|>") in backend.encode("<｜tool｜>").ids
    assert ours.token_to_id("<|tool|>") not in ours.encode("<｜tool｜>")
    assert ours.encode_segments([TextSegment("<｜tool｜>", True), TextSegment("<|im_end|>", False)])[
        0
    ] == ours.token_to_id("<|tool|>")


def test_merges_never_produce_a_control_token() -> None:
    vocabulary = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}
    backend = Backend(models.BPE(vocabulary, [("<", "s"), ("<s", ">")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    ours = wrapped(backend)
    assert ours.encode("<s>") == [3, 2]
    assert ours.encode_segments([TextSegment("<s>", True), TextSegment("<s>", False)]) == [4, 3, 2]


def test_a_word_that_is_a_control_token_is_not_looked_up_whole() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [], ignore_merges=True))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["ab"])
    assert wrapped(backend).encode("ab") == [0, 1]


def test_added_whitespace_is_ordinary_text() -> None:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(" " * 8, normalized=False)])
    run = backend.token_to_id(" " * 8)
    assert run in wrapped(backend).encode("x" + " " * 8 + "y")


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_unicode_becomes_the_replacement_character(kind: str) -> None:
    ours = tokenizer(kind)
    assert ours.encode("a\udc80b") == ours.encode("a\ufffdb")
    assert ours.encode("\ud83d\ude00") == ours.encode("😀")


@pytest.mark.parametrize("kind", ["byte", "sentencepiece", "gemma"])
@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_a_continuation_gets_no_leading_space(kind: str, text: str) -> None:
    ours = tokenizer(kind)
    ids = ours.encode("x", add_special_tokens=False) + ours.encode_segments(
        [TextSegment(text, False)], continuation=True
    )
    assert ours.decode(ids) == "x" + text


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("text", [*TEXTS, "   five     spaces", "a<think>b"])
def test_a_gguf_sentencepiece_vocabulary_gives_the_ids_of_sentencepiece(prefix: bool, text: str) -> None:
    ours = tokenizer("sentencepiece" if prefix else "gemma")
    reference = sentencepiece_model(prefix)
    if "<think>" in text:
        # To sentencepiece all text is trusted; around an added token the library begins a new text.
        assert ours.token_to_id("<think>") in ours.encode_segments([TextSegment(text, True)])
        assert ours.token_to_id("<think>") not in ours.encode(text)
    else:
        assert ours.encode(text, add_special_tokens=False) == reference.encode(text)
        assert ours.encode(text) == [reference.bos_id(), *reference.encode(text)]
        assert ours.decode(reference.encode(text)) == reference.decode(reference.encode(text))


def test_properties_of_tokens() -> None:
    ours = tokenizer("sentencepiece")
    reference = sentencepiece_model()
    assert ours.vocab_size == reference.get_piece_size()
    assert (ours.bos_id, ours.eos_id) == (reference.bos_id(), reference.eos_id())
    assert ours.special_tokens["unk_token"] == "<unk>"
    assert ours.token_bytes(id_of(ours, "<0xE2>")) == b"\xe2"
    assert ours.token_bytes(id_of(ours, "▁The")) == b" The"
    for outside in (-1, ours.vocab_size, 2**40):
        assert (ours.piece(outside), ours.token_bytes(outside)) == ("", b"")
        assert not ours.is_special(outside)
        assert not ours.is_added(outside)
    assert ours.decode([-1, 2**40]) == ""
    think, end = id_of(ours, "<think>"), id_of(ours, "<|im_end|>")
    assert (ours.is_added(think), ours.is_special(think), ours.is_special(end)) == (True, False, True)


def test_saved_truncation_and_padding_are_disabled() -> None:
    backend = byte_level_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    assert wrapped(backend).encode("The quick brown fox") == byte_level_backend().encode("The quick brown fox").ids


def test_tokens_listed_only_in_other_files_are_added() -> None:
    backend = byte_level_backend()
    size = backend.get_vocab_size()
    ours = tokenizer_from_json(
        backend.to_str().encode(),
        source="tokenizer.json",
        tokenizer_config={
            "added_tokens_decoder": {
                str(size): {"content": "<|call|>", "special": True, "normalized": False},
                "1": {"content": "<|im_start|>", "special": True},
            },
            "extra_special_tokens": {"image_token": "<think>"},
            "add_bos_token": False,
        },
        special_tokens_map={"eos_token": "<|im_end|>", "pad_token": {"content": "<|call|>"}},
        added_tokens={"<tool>": size + 1},
    )
    assert ours.token_to_id("<|call|>") == size
    assert ours.is_special(size)
    assert not ours.is_special(size + 1)
    assert ours.encode_segments([TextSegment("<tool><|call|>", True)]) == [size + 1, size]
    assert ours.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|call|>", "image_token": "<think>"}
    assert ours.vocab_size == size + 2
    assert ours.bos_id is None
    # transformers 5 lets the post-processor of tokenizer.json decide, whatever the flags say.
    assert ours.encode("a")[0] == ours.token_to_id("<|begin|>")


def test_an_ordinary_token_with_a_role_becomes_special() -> None:
    backend = Backend(models.BPE({"a": 0, "<end>": 1}, []))
    backend.decoder = decoders.ByteLevel()
    ours = tokenizer_from_json(backend.to_str(), source="t", tokenizer_config={"eos_token": "<end>", "bos_token": "-"})
    assert ours.is_special(1)
    assert ours.vocab_size == 2


@pytest.mark.parametrize("content", [b"\xff", "", "{}", "[]", "null", "[" * 10_000, '{"model": 3}'])
def test_a_damaged_tokenizer_json_is_named(content: str | bytes) -> None:
    with pytest.raises(CheckpointError, match=r"here/tokenizer\.json"):
        tokenizer_from_json(content, source="here/tokenizer.json")


def test_a_token_with_an_absurd_id_is_refused() -> None:
    data = json.loads(byte_level_backend().to_str())
    data["model"]["vocab"]["a"] = 2_211_111_111
    with pytest.raises(CheckpointError, match=r"t\.json .* 2211111111"):
        tokenizer_from_json(json.dumps(data), source="t.json")


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "damaged entries ('added_tokens_decoder')"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": "x"}}}, "damaged entries ('1')"),
        ({"tokenizer_config": {"added_tokens_decoder": {"-1": {"content": "x"}}}}, "damaged entries ('-1')"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9999": {"content": "x<>"}}}}, "about 'x<>'"),
        ({"tokenizer_config": {"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}}}, "about '<|im_end|>'"),
        ({"added_tokens": {"x": "1"}}, "damaged entries ('x')"),
        ({"added_tokens": {"": 1}}, "damaged entries ('')"),
        ({"added_tokens": {"<a>": -3}}, "damaged entries ('<a>')"),
        ({"added_tokens": {f"<{n}>": 9000 + n for n in range(5)}}, "about '<0>', '<1>', '<2>' and 2 more"),
        ({"tokenizer_config": {"eos_token": 7}, "special_tokens_map": {"pad_token": "<gone>"}}, "have: '<gone>'"),
        ({"special_tokens_map": {"eos_token": [], "bos_token": None}}, ""),
    ],
)
def test_token_lists_that_disagree_with_tokenizer_json_are_ignored(beside: dict[str, Any], said: str) -> None:
    backend = byte_level_backend()
    ours = tokenizer_from_json(backend.to_str(), source="t.json", **beside)
    assert ours.vocab_size == backend.get_vocab_size()
    assert ours.encode("The <|im_end|> fox") == wrapped(backend).encode("The <|im_end|> fox")
    assert ours.encode_segments([TextSegment("<|im_end|>", True)]) == [2]
    assert ["next to t.json" in note and said in note for note in ours.notes] == ([True] if said else [])


def test_a_listed_token_that_the_template_writes_is_not_ignored() -> None:
    listed = {"added_tokens": {"<|call|>": 9999}, "templates": ["{{ x }}<|call|>"]}
    with pytest.raises(CheckpointError, match=r"next to t\.json give the token '<\|call\|>'.* 9999"):
        tokenizer_from_json(byte_level_backend().to_str(), source="t.json", **listed)  # type: ignore[arg-type]


def test_an_added_token_without_an_embedding_is_not_used() -> None:
    backend = byte_level_backend()
    rows = backend.get_vocab_size()
    backend.add_special_tokens(["<pad>"])
    for made in (
        tokenizer_from_json(backend.to_str(), source="t.json", rows=rows),
        tokenizer_from_json(byte_level_backend().to_str(), source="t.json", added_tokens={"<pad>": rows}, rows=rows),
    ):
        assert (made.vocab_size, made.token_to_id("<pad>"), made.is_added(rows)) == (rows, None, False)
        assert made.notes == ("t.json has an added token without an embedding, not used: '<pad>'.",)
        assert made.encode("<pad>") == wrapped(byte_level_backend()).encode("<pad>")
        with pytest.raises(CheckpointError, match=r"'<pad>' .* embeddings for"):
            made.encode_segments([TextSegment("<pad>", True)])


def test_a_tokenizer_of_another_model_keeps_its_size() -> None:
    backend = byte_level_backend()
    size = backend.get_vocab_size()
    for rows in (size - 3, 100):
        # Ordinary tokens beyond the rows, or many added ones: the sizes are compared on loading.
        assert tokenizer_from_json(backend.to_str(), source="t.json", rows=rows).vocab_size == size
    backend.add_special_tokens([f"<{n}>" for n in range(20)])
    assert tokenizer_from_json(backend.to_str(), source="t.json", rows=size).vocab_size == size + 20
    # Thousands are codes of images and sound.
    backend.add_special_tokens([f"<image {n}>" for n in range(1000)])
    assert tokenizer_from_json(backend.to_str(), source="t.json", rows=size + 20).vocab_size == size + 20


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (decoders.WordPiece(), "WordPiece"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.CTC(), "CTC"),
        (None, "neither"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.ByteFallback()]), "Strip"),
    ],
)
def test_unknown_decoders_are_refused_by_name(decoder: Any, named: str) -> None:
    backend = byte_level_backend()
    backend.decoder = decoder
    with pytest.raises(UnsupportedModelError, match=named):
        wrapped(backend)


def test_a_tokenizer_json_inside_a_gguf_file_is_used() -> None:
    backend = byte_level_backend()
    metadata = gguf_of_sentencepiece() | {
        "tokenizer.huggingface.json": backend.to_str(),
        "tokenizer.ggml.eos_token_id": 2,
    }
    ours = tokenizer_from_gguf(metadata, source="model.gguf")
    assert ours.encode("The fox") == backend.encode("The fox").ids
    assert ours.special_tokens["eos_token"] == SPECIALS[2]
    for index in (10**6, -1, 2.0, "2", None):
        assert tokenizer_from_gguf(metadata | {"tokenizer.ggml.eos_token_id": index}, source="m.gguf").eos_id is None


@pytest.mark.parametrize(
    "embedded", ["", "{}", "[" * 10_000, byte_level_backend().to_str().replace("ByteLevel", "CTC")]
)
def test_a_damaged_tokenizer_json_inside_a_gguf_file_is_ignored(embedded: str) -> None:
    metadata = gguf_of_sentencepiece()
    ours = tokenizer_from_gguf(metadata | {"tokenizer.huggingface.json": embedded}, source="model.gguf")
    assert ours.encode("The fox") == tokenizer_from_gguf(metadata, source="model.gguf").encode("The fox")
    assert "embedded tokenizer.json is ignored" in ours.notes[0]


def test_unigram_text_outside_the_vocabulary_is_the_unknown_token() -> None:
    backend = Backend(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("<s>", 0.0)], 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>"])
    ours = wrapped(backend)
    assert ours.encode("abž") == backend.encode("abž").ids
    assert 3 not in ours.encode("ab<s>")
    assert json.loads(backend.to_str())["model"]["unk_id"] == 0


def test_unencodable_text_is_reported_as_a_fault_of_the_file() -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="missing"))
    backend.decoder = decoders.ByteLevel()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        wrapped(backend)


def test_lone_surrogates_in_other_files_are_replaced() -> None:
    backend = byte_level_backend()
    ours = tokenizer_from_json(
        backend.to_str(),
        source="t.json",
        tokenizer_config={
            "eos_token": "\ud800",
            "added_tokens_decoder": {str(backend.get_vocab_size()): {"content": "<\udfff>"}},
        },
    )
    assert ours.eos_id is None
    assert ours.is_added(ours.vocab_size - 1)
    assert ours.token_to_id("\ud800") is None


def test_many_listed_tokens_get_consecutive_ids() -> None:
    backend = byte_level_backend()
    size = backend.get_vocab_size()
    listed = {f"<{n}>": size + n for n in range(300)}
    ours = tokenizer_from_json(backend.to_str(), source="t.json", added_tokens=listed | {"<late>": size + 301})
    assert [ours.piece(size + n) for n in range(300)] == list(listed)
    assert ours.vocab_size == size + 300
    assert ours.notes == (
        "Lists of added tokens next to t.json disagree with it about '<late>'; its own ids are used.",
    )
