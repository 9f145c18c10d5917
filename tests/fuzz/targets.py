"""Every reader of untrusted data as a function of bytes, which must return or raise `LlmcliError`."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.edits.edit_file import Edit, LayerUpdate, read_edit, write_edit
from llmcli.checkpoint.gguf.header import read_gguf
from llmcli.checkpoint.huggingface.safetensors_header import read_safetensors
from llmcli.checkpoint.huggingface.torch_pickles import read_torch_file
from llmcli.checkpoint.text_assets import gguf_text_parts
from llmcli.conversations.store import read_conversation
from llmcli.errors import LlmcliError
from llmcli.text.chat_template.budget import Limits
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.bpe import tiktoken
from llmcli.text.vocab.load import tokenizer_from_json, tokenizer_from_model_file, tokenizer_from_tekken
from tests.support.models.safetensors_folder import read_safetensors_folder

# Every kind of statement, filter and operator that the templates of real models have.
_TEMPLATE = """{% set ns = namespace(n=0) %}{% macro m(x, y='z') %}{{ x ~ y }}{% endmacro %}
{%- for message in messages if message.role != 'tool' recursive -%}
{% set ns.n = ns.n + 1 %}{{ '<|' + message['role'] + '|>' }}{{ message.content | trim | replace('a', 'b') }}
{% if loop.last and add_generation_prompt %}{{ m('x') * 2 }}{% elif not loop.first %}{% continue %}{% endif %}
{% endfor %}{{ messages | map(attribute='role') | join(', ') }}{{ [1, 2][0:1] | tojson(indent=2) }}
{{ '%s %d' % ('a', 1) }}{{ 'a'.split('b')[-1].strip().center(9) }}{{ range(3) | list }}{{ {'a': (1,)}.items() }}
{% filter upper %}x{% endfilter %}{% macro n() %}{{ caller() }}{% endmacro %}
{% call n() %}c{% endcall %}{{ 2 ** 3 // 1 % 2 }}{{ strftime_now('%Y') }}"""
_CHAT = [
    {"kind": "begin", "id": "a", "time": "t", "program": "p", "version": 1},
    {"kind": "settings", "model": "m", "source": None, "system": "s", "template": None, "template_args": {"a": 1}},
    {"kind": "question", "n": 1, "after": 0, "text": "hi", "time": "t"},
    {"kind": "reply", "n": 2, "after": 1, "model": "m", "sampling": {"seed": 1}, "time": "t"},
    {"kind": "more", "n": 2, "text": "yes", "ids": [1, 2]},
    {"kind": "end", "n": 2, "reason": "stop"},
    {"kind": "window", "n": 1, "summary": "x"},
    {"kind": "head", "n": 0},
]


@dataclass(frozen=True)
class Target:
    """A reader to fuzz."""

    read: Callable[[bytes], object]
    """Reads these bytes, or raises `LlmcliError`."""
    seeds: Callable[[], list[bytes]]
    """Valid files to start from."""


def survives(target: Target, data: bytes) -> None:
    """Run a reader on `data`; any exception but `LlmcliError` is a finding."""
    try:
        target.read(data)
    except LlmcliError as error:
        # Every message must be safe to print.
        assert str(error).strip()


@cache
def _folder() -> Path:
    """A valid tiny model, on a memory file system if there is one."""
    from tests.support.faults.models import sound_folder, sound_gguf

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="llmcli-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sound_folder(folder / "model")
    sound_gguf(folder / "sound.gguf")
    (folder / "indexed").mkdir()
    (folder / "indexed" / "a.safetensors").write_bytes((folder / "model" / "model.safetensors").read_bytes())
    return folder


def _at(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def from_bytes(data: bytes) -> object:
        path = _folder() / name
        path.write_bytes(data)
        return read(path)

    return from_bytes


def _gguf(path: Path) -> None:
    header = read_gguf(path)
    gguf_text_parts(header)


def _tokenizer(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    tokenizer = tokenizer_from_json(text, source="tokenizer.json", tokenizer_config={})
    _used(tokenizer)


def _used(tokenizer: Tokenizer) -> None:
    tokenizer.decode(tokenizer.encode("Grüße <s> [INST] \n a")[:20])


def _sentencepiece(data: bytes) -> None:
    # Files of the other format have their own target.
    if not tiktoken.is_tiktoken_model(data):
        _used(tokenizer_from_model_file(data, source="tokenizer.model"))


def _tiktoken(data: bytes) -> None:
    # With a vocabulary small enough to be read thousands of times.
    _used(tokenizer_from_model_file(data, source="tokenizer.model", vocabulary=_SMALL_VOCABULARY))


def _tekken(data: bytes) -> None:
    _used(tokenizer_from_tekken(data.decode("utf-8", errors="replace"), source="tekken.json"))


def _template(data: bytes) -> None:
    messages = [{"role": "user", "content": " Hi a "}, {"role": "assistant", "content": "x"}]
    source = data.decode("utf-8", errors="replace")
    # The limits of templates are tested elsewhere; here each try should be short.
    ChatTemplate(source, special_tokens={"bos_token": "<s>"}, limits=Limits(operations=5000)).render(messages)


def _model_file(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(_folder() / "model" / name).read_bytes()]


_SMALL_VOCABULARY = replace(tiktoken.LLAMA3, count=258)


def _tiktoken_seed() -> list[bytes]:
    from tests.support.text.rank_vocabularies import lines

    return [lines([*(bytes([byte]) for byte in range(256)), b"in", b" in"])]


def _tekken_seed() -> list[bytes]:
    from tests.support.text.rank_vocabularies import tekken_data

    named = [{"rank": 1, "token_str": "<s>", "is_control": True}]
    return [json.dumps(tekken_data()).encode(), json.dumps(tekken_data(special_tokens=named)).encode()]


def _sentencepiece_seeds() -> list[bytes]:
    from tests.support.text.sentencepiece_files import trained

    return [trained("bpe"), trained("unigram", collapse=True, rule="nmt_nfkc", byte_fallback=False)]


def _edit_seed() -> list[bytes]:
    import torch

    path = _folder() / "seed.safetensors"
    updates = tuple(LayerUpdate(layer, torch.ones(2), torch.ones(3)) for layer in (0, 12))
    write_edit(path, Edit("m", "0" * 64, "Ulm is in", "Ulm", "Bonn", updates))
    return [path.read_bytes()]


def _weights() -> list[bytes]:
    # Only the header is read; the values would make each try slower.
    raw = (_folder() / "model" / "model.safetensors").read_bytes()
    small = {"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
    header = json.dumps(small).encode()
    return [raw, len(header).to_bytes(8, "little") + header + bytes(8)]


def _pickled() -> list[bytes]:
    import torch

    path = _folder() / "seed.bin"
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)[1:]}, path)
    old = _folder() / "old.bin"
    torch.save({"a": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    return [path.read_bytes(), old.read_bytes()]


def _config(path: Path) -> None:
    try:
        open_checkpoint(path.parent)
    finally:
        path.write_bytes(_model_file_once("config.json"))


@cache
def _model_file_once(name: str) -> bytes:
    return (_folder() / "model" / name).read_bytes()


def _index_seed() -> list[bytes]:
    names = read_safetensors(_folder() / "model" / "model.safetensors")
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "a.safetensors")}).encode()]


TARGETS: dict[str, Target] = {
    "gguf": Target(_at("model.gguf", _gguf), lambda: [(_folder() / "sound.gguf").read_bytes()]),
    "safetensors": Target(_at("w.safetensors", read_safetensors), _weights),
    "torch": Target(_at("w.bin", read_torch_file), _pickled),
    "index": Target(
        _at("indexed/model.safetensors.index.json", lambda path: read_safetensors_folder(path.parent)), _index_seed
    ),
    "config": Target(_at("model/config.json", _config), _model_file("config.json")),
    "tokenizer": Target(_tokenizer, _model_file("tokenizer.json")),
    "sentencepiece": Target(_sentencepiece, _sentencepiece_seeds),
    "tiktoken": Target(_tiktoken, _tiktoken_seed),
    "tekken": Target(_tekken, _tekken_seed),
    "edit": Target(_at("edit.safetensors", read_edit), _edit_seed),
    "template": Target(_template, lambda: [_TEMPLATE.encode(), b"{{ bos_token }}{% for m in messages %}{% endfor %}"]),
    "chat": Target(
        _at("chat.jsonl", read_conversation), lambda: ["".join(f"{json.dumps(line)}\n" for line in _CHAT).encode()]
    ),
}
