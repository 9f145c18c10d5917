from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from llmcli.checkpoint.gguf.header import GGUFHeader, GGUFValue
from llmcli.checkpoint.text_assets import TextParts, folder_text_parts, gguf_text_parts
from llmcli.errors import CheckpointError, UsageError
from llmcli.text.vocab.bpe.pretokenizers import KIMI_WORDS, LLAMA3_WORDS
from tests.support.models.tiny import byte_tokenizer
from tests.support.text.rank_vocabularies import converted, lines, ranked, tekken_data
from tests.support.text.sentencepiece_files import trained
from tests.support.text.tokenizers import byte_level_backend, gguf_of_byte_level


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def read(folder: Path, config: Mapping[str, object] | None = None) -> TextParts:
    return folder_text_parts(folder, config or {})


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


SIZES = {"tokenizer.json": 261, "tekken.json": 537, "tokenizer.model": 700}


@pytest.mark.parametrize("present", [list(SIZES)[at:] for at in range(3)] + [["tokenizer.json", "tokenizer.model"]])
def test_the_most_complete_tokenizer_file_is_used(tmp_path: Path, present: list[str]) -> None:
    contents = {
        "tokenizer.json": byte_tokenizer().to_str(),
        "tekken.json": tekken_data(),
        "tokenizer.model": trained("bpe"),
    }
    for name in present:
        write(tmp_path, name, contents[name])
    write(tmp_path, "tokenizer_config.json", {"add_bos_token": False})
    tokenizer = read(tmp_path).tokenizer
    assert tokenizer.vocab_size == SIZES[present[0]]
    # The flag applies to tokenizer.model only.
    assert (len(tokenizer.encode("", add_special_tokens=True)) == 0) == (present[0] == "tokenizer.model")


@pytest.mark.parametrize(("name", "control"), [("tiktoken.model", 256), ("hy.tiktoken", 210)])
def test_vocabularies_in_tiktokens_format_are_known_by_the_names_of_their_files(
    tmp_path: Path, name: str, control: int
) -> None:
    tokens = ranked(KIMI_WORDS)
    write(tmp_path, name, lines(tokens))
    assert read(tmp_path).tokenizer.vocab_size == len(tokens) + control


def test_the_error_without_a_tokenizer_names_the_files_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json, tekken\.json, tokenizer\.model, tiktoken\.model"):
        read(tmp_path)


@pytest.mark.parametrize("name", list(SIZES))
def test_a_damaged_tokenizer_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path, "tokenizer.model", trained("bpe"))
    write(tmp_path, name, b"\xff\xff\xff")
    with pytest.raises(CheckpointError, match=name):
        read(tmp_path)


def test_repairs_of_a_tokenizer_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.json", converted(LLAMA3_WORDS).to_str())
    assert len(read(tmp_path).tokenizer.notes) == 1


NAMED = [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]


@pytest.mark.parametrize(
    ("files", "templates", "origin"),
    [
        ({}, {}, None),
        ({"chat_template.jinja": "J"}, {"default": "J"}, "chat_template.jinja"),
        ({"tokenizer_config.json": {"chat_template": "C"}}, {"default": "C"}, "tokenizer_config.json"),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, {"default": "D", "rag": "R"}, "tokenizer_config.json"),
        ({"chat_template.json": {"chat_template": "P"}}, {"default": "P"}, "chat_template.json"),
        ({"chat_template.json": {"chat_template": NAMED}}, {"default": "D", "rag": "R"}, "chat_template.json"),
        (
            {"chat_template.jinja": "J", "additional_chat_templates/rag.jinja": "A"},
            {"default": "J", "rag": "A"},
            "chat_template.jinja",
        ),
        (
            {"additional_chat_templates/rag.jinja": "A", "tokenizer_config.json": {"chat_template": "C"}},
            {"default": "C", "rag": "A"},
            "tokenizer_config.json",
        ),
        ({"additional_chat_templates/rag.jinja": "A"}, {"rag": "A"}, "additional_chat_templates"),
        (
            {
                "chat_template.jinja": "J",
                "tokenizer_config.json": {"chat_template": "C"},
                "chat_template.json": {"chat_template": "P"},
            },
            {"default": "J"},
            "chat_template.jinja",
        ),
        (
            {"tokenizer_config.json": {"chat_template": "C"}, "chat_template.json": {"chat_template": "P"}},
            {"default": "C"},
            "tokenizer_config.json",
        ),
        ({"tokenizer_config.json": {"chat_template": [1, {"name": "x"}]}}, {}, None),
    ],
)
def test_templates_come_from_every_known_place(
    folder: Path, files: dict[str, object], templates: dict[str, str], origin: str | None
) -> None:
    for name, content in files.items():
        write(folder, name, content)
    parts = read(folder)
    assert (parts.templates, parts.template_origin) == (templates, origin)


def test_templates_in_gguf_metadata() -> None:
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2") | {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.rag": "R",
        "tokenizer.chat_templates": ["rag"],
    }
    header = GGUFHeader(Path("m.gguf"), cast("dict[str, GGUFValue]", metadata), 3, {}, 32)
    parts = gguf_text_parts(header)
    assert (parts.templates, parts.template_origin) == ({"default": "D", "rag": "R"}, "tokenizer.chat_template")


def test_a_template_is_chosen_by_name_and_sees_the_special_tokens(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": NAMED, "bos_token": "<|bos|>"})
    write(folder, "additional_chat_templates/bos.jinja", "{{ bos_token }}")
    parts = read(folder)
    for name, text in ((None, "D"), ("rag", "R"), ("bos", "<|bos|>")):
        template = parts.template(name)
        assert template is not None
        assert template.render([]) == text
    with pytest.raises(UsageError, match=r"'tools'.*bos, default, rag"):
        parts.template("tools")


def test_several_templates_without_a_default_need_a_name(folder: Path) -> None:
    for name in ("rag", "tool_use"):
        write(folder, f"additional_chat_templates/{name}.jinja", name)
    parts = read(folder)
    undecided = parts.template()
    assert undecided is not None
    # Raised only when a template is used.
    with pytest.raises(CheckpointError, match="rag, tool_use"):
        undecided.render([])
    chosen = parts.template("rag")
    assert chosen is not None
    assert chosen.name == "rag"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("chat_template.jinja", b"\xff"),
        ("chat_template.json", b"{"),
        ("additional_chat_templates/a.jinja", b"\xff"),
    ],
)
def test_a_damaged_template_file_raises_only_when_a_template_is_used(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    parts = read(folder)
    template = parts.template()
    assert template is not None and parts.template_fault is not None
    with pytest.raises(CheckpointError, match=Path(name).name):
        template.check()
    # Another place has a template.
    write(folder, "tokenizer_config.json", json.dumps({"chat_template": "x"}))
    parts = read(folder)
    other = parts.template()
    assert other is not None and other.render([]) == "x"
    # Later places are not read.
    count = 0 if name == "chat_template.json" else 1
    told = [note for note in parts.notes if "template" in note and name in note]
    assert len(told) == count
    assert all(note.startswith("The chat template comes from tokenizer_config.json: ") for note in told)


def test_control_tokens_of_a_template_from_a_file_are_guarded(folder: Path, tmp_path: Path) -> None:
    size = read(folder).tokenizer.vocab_size
    write(folder, "added_tokens.json", json.dumps({"<b>": size}))
    parts = read(folder)
    assert size in parts.tokenizer.encode("<b>")
    (tmp_path / "mine.jinja").write_text("{{ '<' ~ 'b>' ~ messages[0]['content'] }}")
    parts.template(str(tmp_path / "mine.jinja"))
    assert size not in parts.tokenizer.encode("<b>") and parts.tokenizer.is_guarded(size)


def test_an_empty_template_counts_as_none(folder: Path) -> None:
    write(folder, "chat_template.jinja", " \n")
    assert read(folder).template() is None
    write(folder, "chat_template.json", json.dumps({"chat_template": [{"name": "a", "template": ""}]}))
    assert read(folder).template() is None
    write(folder, "tokenizer_config.json", json.dumps({"chat_template": "x"}))
    assert (read(folder).templates, read(folder).template_origin) == ({"default": "x"}, "tokenizer_config.json")


def test_a_model_without_templates_has_none_of_any_name(folder: Path) -> None:
    assert read(folder).template() is None
    with pytest.raises(UsageError, match="no chat templates"):
        read(folder).template("default")


def test_stop_tokens_of_all_files_are_used(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [258, 259], "temperature": 0.6, "top_k": 20.0})
    write(folder, "tokenizer_config.json", {"eos_token": "<|end|>"})
    parts = read(folder, {"eos_token_id": 260})
    assert set(parts.stop_ids) == {257, 258, 259, 260}
    assert parts.generation_defaults == {"temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize(
    ("ids", "kept", "notes"),
    [("2", [], 1), (True, [], 1), ([1, "2"], [1], 1), (10**6, [], 1), (-1, [], 1), (2.0, [2], 0), ([], [], 0)],
)
def test_a_stop_id_that_is_no_token_is_ignored(folder: Path, ids: object, kept: list[int], notes: int) -> None:
    parts = read(folder, {"eos_token_id": ids, "bos_token_id": 10**6, "pad_token_id": -1})
    assert set(parts.stop_ids) == {*kept, byte_tokenizer().token_to_id("<|end|>")}
    assert len(parts.notes) == notes


@pytest.mark.parametrize("name", ["added_tokens.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["", "[1]", b"\xff", "{'"])
def test_a_damaged_file_beside_tokenizer_json_is_ignored_with_a_note(folder: Path, name: str, content: object) -> None:
    write(folder, name, content)
    write(folder, "tokenizer_config.json", {"eos_token": "<|end|>"})
    (note,) = read(folder).notes
    assert note.startswith("Not used: ")
    assert name in note
    (folder / "tokenizer.json").unlink()
    write(folder, "tokenizer.model", trained("bpe"))
    with pytest.raises(CheckpointError, match=name):
        read(folder)


@pytest.mark.parametrize("value", [10**6, -2, "2", 2.5, [1, 10**6], 2**32 - 1, -1])
@pytest.mark.parametrize("name", ["eos", "eot", "eom"])
def test_a_stop_id_in_gguf_metadata_that_is_no_token_is_ignored(name: str, value: object) -> None:
    key = f"tokenizer.ggml.{name}_token_id"
    metadata = gguf_of_byte_level(byte_level_backend(), "gpt-2") | {key: value}
    parts = gguf_text_parts(GGUFHeader(Path("m.gguf"), cast("dict[str, GGUFValue]", metadata), 3, {}, 32))
    assert 2 in parts.stop_ids
    assert sum(key in note for note in parts.notes) == (value not in (2**32 - 1, -1))


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.7, "top_k": 20}, {"temperature": 0, "top_k": 20}),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": None}, {}),
        ({"do_sample": "false"}, {}),
        ({}, {}),
    ],
)
def test_do_sample_false_means_temperature_0(
    folder: Path, generation: dict[str, object], defaults: dict[str, float]
) -> None:
    write(folder, "generation_config.json", generation)
    assert read(folder).generation_defaults == defaults
