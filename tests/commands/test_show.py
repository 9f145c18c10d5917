from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.support.models.tiny import TEMPLATE, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", "llama")


def test_the_template_is_on_stdout_and_its_hash_on_stderr(model: Path) -> None:
    result = llm("show", model, "--template")
    assert (result.returncode, result.stdout) == (0, f"{TEMPLATE}\n".encode())
    assert (
        f"from tokenizer_config.json, sha256 {hashlib.sha256(TEMPLATE.encode()).hexdigest()}" in result.stderr.decode()
    )


def test_templates_as_json(model: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "rag.jinja").write_text("é\x1b")
    shown = json.loads(llm("show", model, "--template", "--json").stdout)
    assert (shown["schema"], shown["origin"]) == ("llmcli.templates/1", "tokenizer_config.json")
    assert shown["templates"] == [
        {"name": name, "source": source, "sha256": hashlib.sha256(source.encode()).hexdigest()}
        for name, source in (("rag", "é\x1b"), ("default", TEMPLATE))
    ]


def test_a_model_without_a_template_is_reported(model: Path) -> None:
    write_text_files(model, template=None)
    result = llm("show", model, "--template")
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"no chat template" in result.stderr
