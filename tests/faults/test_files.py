"""Broken, inconsistent and malicious model files: one error message, the right exit code, and no file changed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch

from tests.support.faults.models import (
    ESCAPE,
    HTML,
    LFS,
    Change,
    array,
    as_json,
    config,
    content,
    cut,
    entry,
    header,
    index,
    linked,
    missing,
    named,
    pair,
    sound_folder,
    sound_gguf,
    template,
    tensors,
    text,
    weights,
)
from tests.support.faults.run import check, fingerprint, run, run_forked
from tests.support.terminal.cli import llm

# Hundreds of damaged files.
pytestmark = pytest.mark.slow

BLOWN_UP = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
PAIR = [TEXT, {"Sequence": {"id": "B", "type_id": 0}}]
ARCHITECTURE = pair("general.architecture", 8, text("llama"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


GGUF: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    "empty": (content(b""), 4, ("is empty",)),
    "letters only": (content(b"GGUF"), 4, ("cut short",)),
    "noise": (content(bytes(range(1, 200))), 4, ("not a GGUF file",)),
    "LFS pointer": (content(LFS), 4, ("Git LFS pointer", "git lfs pull")),
    "web page": (content(HTML), 4, ("a web page",)),
    "pickle": (content(b"\x80\x04cos\nsystem\n"), 4, ("pickle", "can run code")),
    "zip": (content(b"PK\x03\x04" + bytes(60)), 4, ("ZIP archive",)),
    "gzip": (content(b"\x1f\x8b" + bytes(60)), 4, ("gzip archive",)),
    "older than GGUF": (content(b"lmgg" + bytes(60)), 4, ("older than GGUF",)),
    "big endian": (content(b"GGUF" + struct.pack(">I", 3) + bytes(60)), 4, ("big-endian",)),
    "version 1": (content(header(version=1) + bytes(60)), 4, ("version 1",)),
    "version 99": (content(header(version=99) + bytes(60)), 4, ("version 99",)),
    "more keys than bytes": (content(header(keys=60_000)), 4, ("60000 metadata keys", "too short")),
    "2^62 keys": (content(header(keys=1 << 62)), 4, ("metadata keys",)),
    "2^62 tensors": (content(header(tensors=1 << 62) + bytes(60)), 4, ("tensors",)),
    # 49 bytes on which a well-known reader never ends.
    "array of 2^62": (content(header(pair("a", 9, array(0, 1 << 62)))), 4, ("elements in 'a'",)),
    "string of 2^63": (content(header(pair("a", 8, struct.pack("<Q", 1 << 63)))), 4, ("cut short",)),
    "key of 2^40 bytes": (content(header(struct.pack("<Q", 1 << 40), keys=1) + bytes(60)), 4, ("a metadata key",)),
    "nested arrays": (content(header(text("a") + struct.pack("<I", 9) + array(9, 1) * 5000, keys=1)), 4, ("nested",)),
    "unknown type": (content(header(pair("a", 77, bytes(60)))), 4, ("unknown type 77",)),
    "key twice": (content(header(ARCHITECTURE, ARCHITECTURE)), 4, ("occurs twice",)),
    "key that drives a terminal": (content(header(pair(ESCAPE, 77, bytes(60)))), 4, ("owned",)),
    "no architecture": (content(header(more=bytes(60))), 4, ("general.architecture",)),
    "unknown architecture": (
        content(header(pair("general.architecture", 8, text("no" + ESCAPE)), more=bytes(60))),
        4,
        ("owned",),
    ),
    "no sizes": (content(header(ARCHITECTURE, more=bytes(60))), 4, ("llama.",)),
    "five dimensions": (
        content(header(ARCHITECTURE, tensors=1, more=entry("w", (1,) * 5) + bytes(60))),
        4,
        ("'w' has 5 dimensions",),
    ),
    "dimensions that wrap": (
        content(header(ARCHITECTURE, tensors=1, more=entry("w", (1 << 33, 1 << 33)) + bytes(60))),
        4,
        ("'w'",),
    ),
    "unknown encoding": (
        content(header(ARCHITECTURE, tensors=1, more=entry("w", (32, 1), 250) + bytes(600))),
        4,
        ("'w'", "250"),
    ),
    "alignment 3": (
        content(header(ARCHITECTURE, pair("general.alignment", 4, struct.pack("<I", 3)), more=bytes(60))),
        4,
        ("lignment",),
    ),
    "offset past the end": (
        content(header(ARCHITECTURE, tensors=1, more=entry("w", (32, 1), 0, 1 << 40) + bytes(60))),
        4,
        ("'w'",),
    ),
    "data cut short": (cut(64), 4, ("cut short",)),
    "cut in the header": (lambda path: os.truncate(path, 3000), 4, ("cut short",)),
    "a FIFO": (fifo, 3, ("neither a file nor a folder",)),
    "a folder": (folder, 4, ("config.json",)),
    "a link to itself": (circle, 3, ("no file or folder",)),
    "heads that do not divide": (
        lambda path: sound_gguf(path, llama__attention__head_count=5),
        4,
        ("5 attention heads", "2 key-value heads"),
    ),
    "2^31 layers": (
        lambda path: sound_gguf(path, llama__block_count=(1 << 31) - 1),
        4,
        ("2147483647 layers", "12 tensors"),
    ),
    "sizes of another model": (
        lambda path: sound_gguf(path, llama__embedding_length=(1 << 31) - 8),
        4,
        ("2147483640",),
    ),
    "rotation of no number": (lambda path: sound_gguf(path, llama__rope__freq_base=float("nan")), 4, ("freq_base",)),
    "more tokens than rows": (
        lambda path: sound_gguf(
            path,
            tokenizer__ggml__tokens=["t", "1", *(f"t{n}" for n in range(298))],
            tokenizer__ggml__token_type=[1] * 300,
            tokenizer__ggml__merges=["t 1"],
        ),
        4,
        ("300", "261"),
    ),
    "types of other tokens": (
        lambda path: sound_gguf(path, tokenizer__ggml__token_type=[1, 1]),
        4,
        ("261 tokens", "2 of them"),
    ),
    "no tokens": (lambda path: sound_gguf(path, tokenizer__ggml__tokens=None), 4, ("tokenizer.ggml.tokens",)),
    "unknown tokenizer": (lambda path: sound_gguf(path, tokenizer__ggml__model=ESCAPE), 4, ("owned",)),
}


@pytest.mark.parametrize("name", GGUF)
def test_damaged_gguf_files_end_with_a_message(name: str, tmp_path: Path) -> None:
    change, code, says = GGUF[name]
    (tmp_path / "model").mkdir()
    path = sound_gguf(tmp_path / "model" / "model.gguf")
    change(path)
    before = fingerprint(path.parent)
    check(run_forked(["generate", "-m", path, "-n", 2, "-t", 0, "Hi"], tmp_path), code, says)
    assert fingerprint(path.parent) == before


def with_header(**values: object) -> Change:
    """Change the header of a tensor in `model.safetensors`."""
    return weights(lambda names, data: names["model.norm.weight"].update(values))


def templates_linked(folder: Path) -> None:
    place = folder.parent / "outside"
    place.mkdir()
    (place / "secret.jinja").write_text("secret")
    (folder / "additional_chat_templates").symlink_to(place)


def index_alone(written: str) -> Change:
    """Replace the single weight file by an index."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(written)

    return change


FOLDERS: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    # safetensors
    "weights empty": (named("model.safetensors", b""), 4, ("is empty",)),
    "weights are a pointer": (named("model.safetensors", LFS), 4, ("Git LFS pointer",)),
    "weights are a web page": (named("model.safetensors", HTML), 4, ("a web page",)),
    "weights are a pickle": (named("model.safetensors", b"\x80\x02cos\nsystem\n."), 4, ("can run code",)),
    "header of 2^60 bytes": (named("model.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"), 4, ("header",)),
    "header nested deeply": (
        named("model.safetensors", (90_000).to_bytes(8, "little") + b"[" * 90_000),
        4,
        ("not valid JSON",),
    ),
    "header names twice": (
        named("model.safetensors", (17).to_bytes(8, "little") + b'{"a":{},"a":{}}  '),
        4,
        ("'a' twice",),
    ),
    "shape that wraps": (with_header(shape=[1 << 32, 1 << 32]), 4, ("'model.norm.weight'",)),
    "offsets overlap": (with_header(data_offsets=[0, 128]), 4, ("model.safetensors",)),
    "unknown number type": (with_header(dtype="F7"), 4, ("F7",)),
    "bytes at the end": (weights(lambda names, data: data.extend(b"more")), 4, ("model.safetensors",)),
    "name that drives a terminal": (
        weights(lambda names, data: names.__setitem__(ESCAPE, names.pop("model.norm.weight"))),
        4,
        ("model.norm.weight",),
    ),
    "weights cut short": (lambda folder: os.truncate(folder / "model.safetensors", 50_000), 4, ("cut short",)),
    "a tensor lacks": (tensors(lambda found: found.pop("model.norm.weight")), 4, ("model.norm.weight",)),
    "whole numbers": (
        tensors(lambda found: found.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)})),
        4,
        ("model.norm.weight",),
    ),
    "NaN": (tensors(lambda found: found["model.norm.weight"].fill_(float("nan"))), 1, ("not a number",)),
    "infinite": (tensors(lambda found: found["lm_head.weight"].fill_(float("inf"))), 1, ("not a number",)),
    # index and paths
    "no weights": (missing("model.safetensors"), 4, ("model.safetensors",)),
    "index without a map": (index({}), 4, ("weight_map",)),
    "index climbs": (index({"model.norm.weight": "../a.safetensors"}), 4, ("../a.safetensors",)),
    "index is absolute": (index({"model.norm.weight": "/etc/passwd"}), 4, ("/etc/passwd",)),
    "index drives a terminal": (index({"model.norm.weight": f"{ESCAPE}/.safetensors"}), 4, ("owned",)),
    "shard lacks": (index({"model.norm.weight": "b.safetensors"}), 4, ("b.safetensors", "1 of 1")),
    "tensor not in its shard": (index({"nowhere": "a.safetensors"}), 4, ("'nowhere'", "not there")),
    "index is not JSON": (index_alone("{'a"), 4, ("line 1",)),
    "weights link out": (linked("model.safetensors", "../outside/w.safetensors"), 4, ("outside the model's folder",)),
    "config links out": (linked("config.json", "../outside/c.json"), 4, ("outside the model's folder",)),
    "tokenizer links out": (linked("tokenizer.json", "../outside/t.json"), 4, ("outside the model's folder",)),
    # config
    "no config": (missing("config.json"), 4, ("config.json",)),
    "config is not JSON": (named("config.json", '{"a": '), 4, ("not valid JSON", "line 1")),
    "config nested deeply": (named("config.json", "[" * 100_000), 4, ("nested too deeply",)),
    "config is not UTF-8": (named("config.json", b'{"\xff": 1}'), 4, ("not UTF-8",)),
    "number of 5000 digits": (named("config.json", '{"hidden_size": ' + "9" * 5000 + "}"), 4, ("config.json",)),
    "wrong hidden size": (config(hidden_size=64), 4, ("64", "32")),
    "wrong number of layers": (config(num_hidden_layers=2), 4, ("layers.1.",)),
    "heads do not divide": (
        config(num_attention_heads=3, num_key_value_heads=2),
        4,
        ("3 attention heads", "2 key-value heads"),
    ),
    "wrong vocabulary size": (config(vocab_size=300), 4, ("300", "261")),
    "absurd vocabulary": (config(vocab_size=1 << 40), 4, ("1099511627776",)),
    "absurd context": (config(max_position_embeddings=1 << 62), 4, ("max_position_embeddings",)),
    "size is text": (config(hidden_size="32" + ESCAPE), 4, ("hidden_size",)),
    "rotation without base": (config(rope_parameters={"rope_theta": 0, "rope_type": "default"}), 4, ("theta 0.0",)),
    "unknown rotation": (config(rope_parameters={"rope_theta": 1e4, "rope_type": ESCAPE}), 4, ("owned",)),
    "unknown family": (config(model_type="frob" + ESCAPE, architectures=None), 4, ("frob", "llama")),
    "state-space model": (config(model_type="rwkv7"), 4, ("recurrent state",)),
    "unknown activation": (config(hidden_act="frob"), 4, ("frob",)),
    # tokenizer
    "tokenizer is not JSON": (named("tokenizer.json", "{"), 4, ("tokenizer.json",)),
    "tokenizer nested deeply": (named("tokenizer.json", '{"a":' * 50_000), 4, ("tokenizer.json",)),
    "tokenizer at which its library panics": (
        as_json("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        4,
        ("tokenizer.json is not a valid tokenizer",),
    ),
    "text at which the library of tokenizers panics": (
        as_json("tokenizer.json", normalizer={"type": "Prepend", "prepend": ""}),
        4,
        ("tokenizer.json cannot encode some text",),
    ),
    # Ten lines of rules that expand one letter beyond all memory, some of them while they are read.
    "tokenizer that blows text up": (
        as_json("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [BLOWN_UP] * 4}),
        4,
        ("tokenizer.json", "1000000000000 times longer"),
    ),
    "tokenizer that says a text a billion times": (
        as_json(
            "tokenizer.json",
            post_processor={
                "type": "Sequence",
                "processors": [
                    {"type": "TemplateProcessing", "single": [TEXT] * 1000, "pair": PAIR, "special_tokens": {}}
                ]
                * 3,
            },
        ),
        4,
        ("tokenizer.json", "1000000000 times longer"),
    ),
    "tokenizer that frames a text in billions": (
        as_json(
            "tokenizer.json",
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}] * 10_000 + [TEXT],
                "pair": PAIR,
                "special_tokens": {"x": {"id": "x", "ids": [5] * 100_000, "tokens": ["a"] * 100_000}},
            },
        ),
        4,
        ("tokenizer.json", "1000000000 control tokens"),
    ),
    "tokenizer whose words have no end": (
        as_json(
            "tokenizer.json",
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(x+x+)+y|."},
                "behavior": "Isolated",
                "invert": False,
            },
        ),
        4,
        ("tokenizer.json cannot encode some text", "retry-limit"),
    ),
    "tokenizer larger than the model": (
        as_json(
            "tokenizer.json",
            added_tokens=[
                {
                    "id": n,
                    "content": f"<{n}>",
                    "special": True,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
                for n in range(256, 290)
            ],
        ),
        4,
        ("290", "261"),
    ),
    "settings of the tokenizer are a list": (named("tokenizer_config.json", "[1]"), 4, ("tokenizer_config.json",)),
    "sampling is not JSON": (named("generation_config.json", "{'"), 4, ("generation_config.json",)),
    # templates
    "template without end": (
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        4,
        ("The chat template", "it takes more than"),
    ),
    "template of gigabytes": (template("{{ 'x' * 10**10 }}"), 4, ("a text of more than",)),
    "template leaves its sandbox": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        4,
        ("unsafe",),
    ),
    "template through a helper": (template("{{ cycler.__init__.__globals__.os }}"), 4, ("'default' fails",)),
    "template through a format": (
        template("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}"),
        4,
        ("unsafe",),
    ),
    "template calls itself": (template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), 4, ("recursion",)),
    "template with an error": (template("a\nb\n{% for %}"), 4, ("line 3",)),
    "template of a megabyte": (template("x" * (1 << 20)), 4, ("1048576 characters",)),
    "template nested deeply": (template("{% if a %}" * 10_000), 4, ("cannot be compiled",)),
    "template refuses": (template("{{ raise_exception('no " + ESCAPE + "') }}"), 2, ("refuses", "owned")),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_folders_end_with_a_message(name: str, tmp_path: Path) -> None:
    change, code, says = FOLDERS[name]
    model = sound_folder(tmp_path / "model")
    change(model)
    before = fingerprint(model)
    prompt = "x" * 50 if "words have no end" in name else "Hi"
    check(run_forked(["generate", "-m", model, "-n", 2, "-t", 0, prompt], tmp_path), code, says)
    assert fingerprint(model) == before


@pytest.mark.parametrize("content", ["", "{'a", "{}", '{"weight_map": {"model.norm.weight": "../a.safetensors"}}'])
def test_a_damaged_index_beside_the_whole_file_is_ignored_with_a_note(content: str, tmp_path: Path) -> None:
    model = sound_folder(tmp_path / "model")
    whole = llm("generate", "-m", model, "-n", 2, "-t", 0, "Hi")
    (model / "model.safetensors.index.json").write_text(content)
    beside = llm("generate", "-m", model, "-n", 2, "-t", 0, "Hi")
    assert (beside.returncode, beside.stdout) == (0, whole.stdout)
    assert b"model.safetensors.index.json is not used: model.safetensors is beside it" in beside.stderr


def test_templates_outside_the_folder_are_not_read_beside_others(tmp_path: Path) -> None:
    model = sound_folder(tmp_path / "model")
    templates_linked(model)
    result = llm("generate", "-m", model, "-n", 2, "-t", 0, "Hi")
    assert result.returncode == 0
    assert b"The chat template comes from" in result.stderr and b"outside the model's folder" in result.stderr


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    model = sound_folder(tmp_path / "model")
    config(auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})(model)
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("evil.py", "torch.py", "sitecustomize.py", "__init__.py", "jinja2.py"):
        (model / name).write_text(code)
    before = fingerprint(model)
    check(run(["generate", "-m", model, "-n", 2, "-t", 0, "Hi"], tmp_path), 0, (), stdout=None)
    assert not mark.exists()
    assert fingerprint(model) == before
