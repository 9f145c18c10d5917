from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models.tiny import TEMPLATE, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "llmcli").mkdir()
    return tmp_path / "llmcli" / "config.toml"


def test_a_valid_and_a_damaged_model(tmp_path: Path, config: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    result = llm("doctor", folder)
    words = " ".join(result.stdout.decode().split())
    assert (result.returncode, result.stderr) == (0, b"")
    assert "torch 2" in words and "the readable model" in words and "WRONG" not in words
    write_text_files(folder, template="{{ bos_token }}" + TEMPLATE)
    result = llm("doctor", folder)
    assert result.returncode == 1
    assert "WRONG chat template 2 BOS tokens" in " ".join(result.stdout.decode().split())
    found = json.loads(llm("doctor", folder, "--json").stdout)
    assert (found["schema"], found["model"]) == ("llmcli.doctor/1", "model")
    assert [finding["subject"] for finding in found["findings"] if finding["level"] == "problem"] == ["chat template"]


def test_a_damaged_settings_file_is_a_finding_and_not_an_error(config: Path) -> None:
    assert llm("doctor").returncode == 0
    config.write_text("tempreature = 1\n")
    result = llm("doctor", "--json")
    assert result.returncode == 1
    finding = json.loads(result.stdout)["settings"][0]
    assert (finding["level"], "did you mean 'temperature'" in finding["message"]) == ("problem", True)
    assert llm("doctor", "--device", "toaster").returncode == 2
    assert llm("doctor", "/nowhere").returncode == 3
