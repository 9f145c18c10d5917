from __future__ import annotations

import array

import pytest
from tokenizers import Regex
from tokenizers import pre_tokenizers as pre

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.stop_tokens import stop_ids
from llmcli.text.vocab.bpe import pretokenizers
from llmcli.text.vocab.bpe.pretokenizers import gguf_pre_tokenizer
from llmcli.text.vocab.gguf import gguf_backend
from llmcli.text.vocab.load import tokenizer_from_gguf
from tests.support.text.tokenizers import (
    TEXTS,
    byte_level_backend,
    gguf_of_byte_level,
    gguf_of_gemma4,
    gguf_of_sentencepiece,
)

# As the models' own tokenizer.json files have them, written with the library's parts where ours are expressions.
BYTE_LEVEL = pre.ByteLevel(add_prefix_space=False)
NO_SPLIT = pre.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ORIGINALS = {
    "gpt-2": BYTE_LEVEL,
    "smollm": pre.Sequence([pre.Digits(individual_digits=True), BYTE_LEVEL]),
    "falcon": pre.Sequence(
        [pre.Punctuation("contiguous"), BYTE_LEVEL, pre.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    ),
    "qwen2": pre.Sequence([pre.Split(Regex(QWEN2), "isolated"), NO_SPLIT]),
    "llama-bpe": pre.Sequence([pre.Split(Regex(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), "isolated"), NO_SPLIT]),
}
MORE = [
    "1234567 a12 3.14",
    "don't DON'T",
    "a\n\n b\r\n  c   d",
    "$5+<b>`x`~|^=",
    "Straße ΑΩ жук 日本 ひらがな 한국 ａＢ",
    "(a, b)!?\n",
]


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("text", [*TEXTS, *MORE])
def test_words_are_split_as_by_the_original_tokenizers(name: str, text: str) -> None:
    original = ORIGINALS[name].pre_tokenize_str(text)
    ours = gguf_pre_tokenizer(name, source="x").pre_tokenize_str(text)
    assert [word for word, _ in ours] == [word for word, _ in original]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("tekken", "helloWorld 123/\n", ["hello", "World", "Ġ", "1", "2", "3", "/Ċ"]),
        ("gpt-4o", "don'T 1234", ["don'T", "Ġ", "123", "4"]),
        ("qwen35", "e\u0301x 12", ["eÌģx", "Ġ", "1", "2"]),
        ("deepseek-v3", ".foo 1234漢x", [".foo", "Ġ", "123", "4", "æ¼¢", "x"]),
        ("deepseek-coder", "a b\n12!", ["a", "Ġb", "Ċ", "1", "2", "!"]),
        ("deepseek-llm", "éÉ 12漢 !x", ["Ã©Ãī", "Ġ", "12", "æ¼¢", "Ġ!", "x"]),
        ("bloom", "a, b 12", ["a", ",", "Ġb", "Ġ12"]),
        ("viking", "a, b 12", ["a", ",", "Ġb", "Ġ", "1", "2"]),
        ("seed-coder", "x!\n12", ["x", "!", "Ċ", "1", "2"]),
        ("kimi-k2", "a漢b 1234", ["a", "æ¼¢", "b", "Ġ", "123", "4"]),
        ("exaone-moe", "two words, 12", ["twoĠwords", ",", "Ġ", "1", "2"]),
        ("jais-2", "a" + 7 * " " + "b", ["a", "ĠĠĠĠ", "ĠĠ", "Ġb"]),
        ("afmoe", "1234567 is(a b", ["1", "234", "567", "Ġis", "(a", "Ġb"]),
        ("youtu", "helloWorld한1", ["hello", "World", "íķľ", "1"]),
        ("bailingmoe", "don't\n\n12", ["don", "'t", "ĊĊ", "1", "2"]),
        ("minicpm5", "a 12345", ["a", "Ġ", "123", "45"]),
        ("tiny_aya", "1234567 don'T", ["1", "234", "567", "Ġdon'T"]),
        ("superbpe", "a b 1234567.", ["aĠbĠ", "1", "234", "567", "."]),
        ("laguna", "a \n\nb 12", ["a", "Ġ", "ĊĊ", "b", "Ġ", "1", "2"]),
        ("ufakzeka", "Ali'nin 12", ["Ali", "'nin", "Ġ", "1", "2"]),
        ("mellum2", "a 12", ["a", "Ġ", "1", "2"]),
        ("default", "a$$ 1234", ["a", "$$", "Ġ", "123", "4"]),
    ],
)
def test_other_rules_split_words_as_expected(name: str, text: str, words: list[str]) -> None:
    assert [word for word, _ in gguf_pre_tokenizer(name, source="x").pre_tokenize_str(text)] == words


@pytest.mark.parametrize("name", sorted(pretokenizers._SPLITS))
def test_no_rule_loses_a_character(name: str) -> None:
    rule = gguf_pre_tokenizer(name, source="x")
    for text in [*TEXTS, *MORE]:
        alphabet = NO_SPLIT.pre_tokenize_str(text)
        assert "".join(word for word, _ in rule.pre_tokenize_str(text)) == "".join(word for word, _ in alphabet)


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("text", [*TEXTS, *MORE])
def test_a_byte_level_vocabulary_keeps_its_ids(name: str, text: str) -> None:
    backend = byte_level_backend(ORIGINALS[name])
    ours = tokenizer_from_gguf(gguf_of_byte_level(backend, name), source="model.gguf")
    ids = backend.encode(text).ids
    if name != "llama-bpe":
        # In that rule a word that is a token needs no merges, unlike in our training.
        assert ours.encode(text) == ids
    assert ours.decode(ids) == text
    assert [ours.is_added(token) for token in range(ours.vocab_size)] == [
        token in backend.get_added_tokens_decoder() for token in range(backend.get_vocab_size())
    ]


@pytest.mark.parametrize(("name", "bos"), [("llama-bpe", True), ("tekken", True), ("qwen2", False), (None, False)])
def test_whether_text_begins_with_bos_by_default(name: str | None, bos: bool) -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), name or "")
    del metadata["tokenizer.ggml.add_bos_token"]
    if name is None:
        del metadata["tokenizer.ggml.pre"]
    ours = tokenizer_from_gguf(metadata, source="model.gguf")
    assert (ours.encode("a")[0] == ours.bos_id) == bos


def test_sentencepiece_defaults_when_keys_are_absent() -> None:
    metadata = gguf_of_sentencepiece()
    full = tokenizer_from_gguf(metadata, source="model.gguf")
    for key in ("bos_token_id", "eos_token_id", "unknown_token_id", "add_space_prefix"):
        del metadata[f"tokenizer.ggml.{key}"]
    ours = tokenizer_from_gguf(metadata, source="model.gguf")
    assert ours.encode("The fox") == full.encode("The fox")
    assert ours.special_tokens == full.special_tokens


def test_arrays_may_be_packed_and_types_absent() -> None:
    metadata = gguf_of_sentencepiece()
    full = tokenizer_from_gguf(metadata, source="model.gguf")
    scores, types = metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(scores, list)
    assert isinstance(types, list)
    packed = metadata | {
        "tokenizer.ggml.scores": array.array("d", scores),
        "tokenizer.ggml.token_type": array.array("i", types),
    }
    assert tokenizer_from_gguf(packed, source="model.gguf").encode("The 🦆  x") == full.encode("The 🦆  x")
    del metadata["tokenizer.ggml.token_type"]
    untyped = tokenizer_from_gguf(metadata, source="model.gguf")
    assert untyped.encode("The 🦆 x</s>") == full.encode("The 🦆 x</s>")
    # Known to end a turn, whatever type the file gives it.
    end = untyped.token_to_id("<|im_end|>")
    assert end is not None
    assert untyped.is_special(end)


def test_the_default_eos_of_byte_level_files_is_not_an_ordinary_token() -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2")
    del metadata["tokenizer.ggml.eos_token_id"]
    assert tokenizer_from_gguf(metadata, source="model.gguf").eos_id is None


def test_spellings_that_are_not_text_get_a_name() -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2")
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    more = {"tokenizer.ggml.tokens": [*tokens, "", "\udcff", "\udcfe"], "tokenizer.ggml.token_type": [*types, 1, 1, 1]}
    ours = tokenizer_from_gguf(metadata | more, source="model.gguf")
    assert ours.vocab_size == len(tokens) + 3
    assert "INVALID" in ours.piece(len(tokens) + 1)


@pytest.mark.parametrize("kind", [None, "t5", "bert", "rwkv", 7])
def test_other_kinds_are_refused_by_name(kind: object) -> None:
    with pytest.raises(UnsupportedModelError, match=str(kind)):
        gguf_backend({"tokenizer.ggml.model": kind}, source="model.gguf")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the the", ["t", "he", "▁the"]),
        ("he.\n\n\n\n the", ["he", ".", "\n\n\n", "\n", "▁the"]),
        ("    e", ["▁▁▁▁", "e"]),
        ("ß\n", ["<0xC3>", "<0x9F>", "\n"]),
        ("", []),
    ],
)
def test_pieces_of_gemma_4_are_merged_in_the_order_of_the_file(text: str, pieces: list[str]) -> None:
    ours = tokenizer_from_gguf(gguf_of_gemma4(), source="model.gguf")
    ids = ours.encode(text)
    # Texts begin with BOS, whatever the file says.
    assert ids[0] == ours.bos_id == 2
    assert [ours.piece(token) for token in ids[1:]] == pieces
    assert ours.decode(ids[1:]) == text


def test_sarvam_has_pieces_as_gemma_4_has_them() -> None:
    file = gguf_of_gemma4(**{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "sarvam-moe"})
    ours = tokenizer_from_gguf(file, source="model.gguf")
    expected = tokenizer_from_gguf(gguf_of_gemma4(), source="model.gguf")
    for text in ("the the\n\nhe.", "ß the", "\n\n\n  t"):
        # Such a file says itself whether texts begin with BOS.
        assert [ours.bos_id, *ours.encode(text)] == expected.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_gemma_4_thinks_between_tokens_that_stay_in_the_text() -> None:
    ours = tokenizer_from_gguf(gguf_of_gemma4(), source="model.gguf")
    reply = "<|channel>the\nthe<channel|>he<turn|>"
    ids = [token for token in ours.encode(reply, control_tokens=True) if token != ours.bos_id]
    assert ours.decode(ids) == "<|channel>the\nthe<channel|>he"
    assert stop_ids(ours, {})[0].keys() == {1, ours.token_to_id("<turn|>")}


def test_gemma_4_needs_merges_and_a_way_to_spell_any_text() -> None:
    with pytest.raises(CheckpointError, match="there are no merges"):
        gguf_backend(gguf_of_gemma4(**{"tokenizer.ggml.merges": []}), source="model.gguf")
    fewer = gguf_of_gemma4(**{"tokenizer.ggml.unknown_token_id": None})
    tokens, types = fewer["tokenizer.ggml.tokens"], fewer["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(types, list)
    del fewer["tokenizer.ggml.unknown_token_id"], tokens[20], types[20]
    types[3] = 1
    with pytest.raises(CheckpointError, match="neither an unknown token nor one for each byte"):
        gguf_backend(fewer, source="model.gguf")


def test_an_unknown_pre_tokenizer_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="'chameleon'"):
        gguf_backend(gguf_of_byte_level(byte_level_backend(), "chameleon"), source="model.gguf")


@pytest.mark.parametrize("merge", ["a no-such-piece", "no-such-piece a", "a \u0120"])
def test_a_merge_of_pieces_outside_the_vocabulary_is_ignored(merge: str) -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2")
    merges = [str(line) for line in metadata["tokenizer.ggml.merges"]]  # type: ignore[attr-defined]
    backend, _, notes = gguf_backend(metadata | {"tokenizer.ggml.merges": [*merges, merge]}, source="m.gguf")
    sound, _, none = gguf_backend(metadata, source="m.gguf")
    assert none == () and len(notes) == 1
    assert notes[0].startswith(f"m.gguf has 1 of {len(merges) + 1} merges of pieces that are not in its vocabulary")
    assert [backend.encode(text).ids for text in TEXTS] == [sound.encode(text).ids for text in TEXTS]


BYTE_LEVEL_FAULTS: list[dict[str, object]] = [
    {"tokens": []},
    {"tokens": "abc"},
    {"tokens": [1, 2]},
    {"tokens": None},
    {"tokens": ["a", "a"], "token_type": [1, 1]},
    {"tokens": ["a", "b"]},
    {"token_type": [1]},
    {"token_type": ["1"]},
    {"merges": []},
    {"merges": ["ab"]},
    {"merges": ["a "]},
    {"merges": [" "]},
    {"merges": ["a no-such-piece"]},
    {"merges": [3]},
    {"pre": 3},
    {"add_bos_token": "yes"},
]
SENTENCEPIECE_FAULTS: list[dict[str, object]] = [
    {"scores": []},
    {"scores": [0.0]},
    {"scores": ["0"]},
    {"add_space_prefix": None},
    {"tokens": ["x" * 1000, "b"], "scores": [0.0, 0.0], "token_type": [1, 1], "unknown_token_id": 1},
    {"tokens": ["a", " ", "▁"], "scores": [0.0] * 3, "token_type": [2, 4, 1]},
    {"tokens": ["a", "b"], "scores": [0.0, 0.0], "token_type": [1, 1], "unknown_token_id": None},
]


@pytest.mark.parametrize("fault", BYTE_LEVEL_FAULTS + SENTENCEPIECE_FAULTS)
def test_damaged_metadata_give_one_sentence(fault: dict[str, object]) -> None:
    sound = gguf_of_sentencepiece() if fault in SENTENCEPIECE_FAULTS else None
    sound = sound or gguf_of_byte_level(byte_level_backend(), "gpt-2")
    metadata = sound | {f"tokenizer.ggml.{key}": value for key, value in fault.items()}
    if "tokens" in fault:
        metadata |= {f"tokenizer.ggml.{key}_token_id": 0 for key in ("bos", "eos")}
    with pytest.raises(CheckpointError, match=r"model\.gguf"):
        gguf_backend(metadata, source="model.gguf")


def test_ids_that_mean_none_are_ignored() -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2") | {"tokenizer.ggml.padding_token_id": 2**32 - 1}
    assert "pad_token" not in tokenizer_from_gguf(metadata, source="model.gguf").special_tokens


@pytest.mark.parametrize("value", [10**6, -2, "2", 2.5, True, [1], 2**64])
@pytest.mark.parametrize("name", ["bos", "eos", "unknown", "padding"])
@pytest.mark.parametrize("sound", [gguf_of_byte_level(byte_level_backend(), "gpt-2"), gguf_of_sentencepiece()])
def test_an_id_outside_the_vocabulary_is_ignored_with_a_note(
    sound: dict[str, object], name: str, value: object
) -> None:
    key = f"tokenizer.ggml.{name}_token_id"
    ours = tokenizer_from_gguf(sound | {key: value}, source="model.gguf")
    assert any(key in note for note in ours.notes)
    # As if the key were absent.
    without = tokenizer_from_gguf({k: v for k, v in sound.items() if k != key}, source="model.gguf")
    assert ours.special_tokens == without.special_tokens
    assert ours.encode("The fox") == without.encode("The fox")


def test_ids_may_be_floats_and_types_too_many() -> None:
    sound = gguf_of_byte_level(byte_level_backend(), "gpt-2")
    types = sound["tokenizer.ggml.token_type"]
    assert isinstance(types, list)
    changed = {"tokenizer.ggml.bos_token_id": 0.0, "tokenizer.ggml.token_type": [*types, 1, 3]}
    ours = tokenizer_from_gguf(sound | changed, source="model.gguf")
    assert ours.encode("The fox") == tokenizer_from_gguf(sound, source="model.gguf").encode("The fox")
    assert [note for note in ours.notes if f"types for {len(types) + 2} tokens" in note] == list(ours.notes)
