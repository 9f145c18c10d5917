"""Absurd sizes are refused by key and value, with little time and memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import edit_config, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("absurd") / "m", "llama")


MORE = "which is more than any model has"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_hidden_layers", 10**9, MORE),
        ("num_hidden_layers", 10**12, MORE),
        ("max_position_embeddings", 10**12, MORE),
        ("vocab_size", 10**400, MORE),
        ("intermediate_size", 0, "a whole number from 1 is needed"),
        ("intermediate_size", -1, "a whole number from 1 is needed"),
        ("hidden_size", 32.5, "a whole number from 1 is needed"),
        ("num_attention_heads", "4", "a whole number from 1 is needed"),
        ("rms_norm_eps", 10**400, "a finite number is needed"),
        ("rms_norm_eps", -1.0, "a number from 0 is needed"),
    ],
)
def test_absurd_sizes_in_config_json_are_refused(model: Path, tmp_path: Path, key: str, value: Any, words: str) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    edit_config(folder, {key: value})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    text = str(caught.value)
    assert f"config.json has {key!r} = {value!r:.100}" in text and words in text
    assert len(text) < len(str(folder)) + 250


def test_numbers_with_thousands_of_digits_are_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"vocab_size": 261', f'"vocab_size": {"9" * 5000}'))
    with pytest.raises(CheckpointError, match="a number has too many digits"):
        open_checkpoint(folder)


def test_an_absurd_number_of_experts_is_refused(tmp_path: Path) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    folder = tiny_checkpoint(tmp_path / "m", "mixtral", **experts)
    edit_config(folder, {"num_local_experts": 10**9, "num_experts_per_tok": 10**9})
    with pytest.raises(CheckpointError, match=f"'num_local_experts' = 1000000000, {MORE}"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.block_count", 4294967295, f"'llama.block_count' = 4294967295, {MORE}"),
        ("llama.block_count", 10**9, "'llama.block_count' = 1000000000: it asks for 1000000000 layers, but holds only"),
        ("llama.feed_forward_length", 0, "'llama.feed_forward_length' = 0; a whole number from 1 is needed"),
        ("llama.feed_forward_length", None, "lacks the metadata key 'llama.feed_forward_length'"),
        ("llama.context_length", 4294967295, f"'llama.context_length' = 4294967295, {MORE}"),
        ("llama.attention.head_count", 0, "'llama.attention.head_count' = 0; a whole number from 1 is needed"),
    ],
)
def test_absurd_sizes_in_a_gguf_file_are_refused(tmp_path: Path, key: str, value: Any, words: str) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "m.gguf", changes={key: value})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("expert_count", 10**9, f"'llama.expert_count' = 1000000000, {MORE}"),
        ("expert_used_count", 0, "'llama.expert_used_count' = 0; a whole number from 1 is needed"),
    ],
)
def test_an_absurd_number_of_experts_in_a_gguf_file_is_refused(
    tmp_path: Path, key: str, value: int, words: str
) -> None:
    model = tiny_model("mixtral", num_local_experts=4)
    path = write_gguf(model, tmp_path / "m.gguf", old=True, changes={f"llama.{key}": value})
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)
