"""`vocab.json` and `merges.txt` give the same tokenizer as in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from llmcli.checkpoint.text_assets import folder_text_parts
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment
from tests.support.models.tiny_checkpoints import tiny_checkpoint

TEXTS = [
    "Hello world, it's 2024 and we'll see 12345 things.",
    "  two  spaces\n\n\tand tabs \r\n lines  ",
    "Cafe\u0301 na\u00efve \u1e9b\u0323 Grüße 你好 🙂",
    "DON'T he'S def f(x):\n    return x**2 # done",
    "",
    " ",
]
ADDED = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool>": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], list[str]]:
    """A vocabulary and its merges."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(TEXTS * 20 + ["the quick brown fox don't def return 12345"] * 5, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def write(folder: Path, trained: tuple[dict[str, int], list[str]], config: dict[str, Any]) -> Path:
    vocabulary, merges = trained
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    listed = {
        str(len(vocabulary) + place): {"content": content, "special": special, "normalized": False}
        for place, (content, special) in enumerate(ADDED.items())
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed} | config))
    return folder


def read(folder: Path, config: dict[str, object] | None = None) -> Tokenizer:
    return folder_text_parts(folder, config or {}).tokenizer


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": "<|im_end|>"},
        {"add_prefix_space": True},
        {"bos_token": "<|im_start|>", "add_bos_token": True, "eos_token": "<|im_end|>"},
    ],
)
def test_the_ids_are_those_of_transformers(
    trained: tuple[dict[str, int], list[str]], tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    import transformers

    folder = write(tmp_path, trained, {"tokenizer_class": name} | settings)
    ours = read(folder)
    theirs = getattr(transformers, name).from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    assert ours.eos_id == theirs.eos_token_id
    assert ours.bos_id == theirs.bos_token_id
    turn = "<|im_start|>user\nHi<tool><|im_end|>"
    ids = theirs.encode(turn, add_special_tokens=False)
    assert ours.encode_segments([TextSegment(turn, trusted=True)]) == ids
    assert ours.is_special(ids[0]) and ours.is_special(ids[-1])
    assert not ours.is_special(ours.token_to_id("<tool>") or 0)


def test_added_tokens_may_be_in_other_files(trained: tuple[dict[str, int], list[str]], tmp_path: Path) -> None:
    import transformers

    folder = write(tmp_path, trained, {})
    size = len(trained[0])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (folder / "added_tokens.json").write_text(json.dumps({token: size + i for i, token in enumerate(ADDED)}))
    further = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "eos_token": "<|im_end|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(further))
    ours, theirs = read(folder), transformers.Qwen2Tokenizer.from_pretrained(folder)
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert (ours.eos_id, ours.token_to_id("<tool>")) == (size + 2, size + 3)
    assert theirs.convert_tokens_to_ids(["<|im_end|>", "<tool>"]) == [size + 2, size + 3]


@pytest.mark.parametrize("place", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_may_have_ids_that_the_vocabulary_leaves_free(
    trained: tuple[dict[str, int], list[str]], tmp_path: Path, place: str
) -> None:
    vocabulary, merges = trained
    ids = {token: number for number, token in enumerate(ADDED)}
    shifted = {token: number + len(ADDED) for token, number in vocabulary.items()}
    folder = write(tmp_path / "beside", (shifted, merges), {})
    listed = {str(number): {"content": token, "special": ADDED[token]} for token, number in ids.items()}
    beside = {"added_tokens_decoder": listed} if place == "tokenizer_config.json" else {}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | beside))
    if not beside:
        (folder / "added_tokens.json").write_text(json.dumps(ids))
    whole = write(tmp_path / "within", (shifted | ids, merges), {})
    (whole / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": listed}))
    ours, expected = read(folder), read(whole)
    assert [ours.token_to_id(token) for token in ADDED] == list(ids.values())
    assert ours.eos_id == expected.eos_id == ids["<|im_end|>"]
    for text in TEXTS:
        assert ours.encode(text) == expected.encode(text)


@pytest.mark.parametrize("model_type", ["qwen2", "gpt2"])
def test_the_model_type_implies_the_tokenizer_class(
    trained: tuple[dict[str, int], list[str]], tmp_path: Path, model_type: str
) -> None:
    import transformers

    folder = tiny_checkpoint(tmp_path / "m", "llama", vocab_size=len(trained[0]) + len(ADDED))
    (folder / "tokenizer.json").unlink()
    write(folder, trained, {})
    name = {"qwen2": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer"}[model_type]
    theirs = getattr(transformers, name).from_pretrained(folder)
    ours = read(folder, {"model_type": model_type})
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no tokenizer_config.json names the tokenizer_class"),
        ({"tokenizer_class": "RobertaTokenizer"}, "tokenizer class 'RobertaTokenizer', which is supported only with"),
        ({"tokenizer_class": 5}, "tokenizer class '5'"),
    ],
)
def test_unknown_tokenizer_classes_are_refused_by_name(
    trained: tuple[dict[str, int], list[str]], tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = write(tmp_path, trained, config)
    with pytest.raises(UnsupportedModelError, match=words):
        read(folder, {"model_type": "llama"})


@pytest.mark.parametrize(
    ("vocabulary", "merges", "words"),
    [
        ({"a": "1"}, "", "gives the token 'a' the id '1'"),
        ({"a": -1}, "", "the id -1"),
        ({"a": 0}, "a b c\n", "no pair of pieces in line 1"),
        ({"a": 0}, "#version: 0.2\na\n", "no pair of pieces in line 2"),
        ({"a": 0}, "a b\n", "not a valid tokenizer"),
        ([], "", "JSON object"),
    ],
)
def test_damaged_files(tmp_path: Path, vocabulary: Any, merges: str, words: str) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text(merges)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path)


def test_merges_may_have_any_line_ends(trained: tuple[dict[str, int], list[str]], tmp_path: Path) -> None:
    folder = write(tmp_path, trained, {"tokenizer_class": "GPT2Tokenizer"})
    expected = [read(folder).encode(text) for text in TEXTS]
    (folder / "merges.txt").write_bytes((folder / "merges.txt").read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert [read(folder).encode(text) for text in TEXTS] == expected
