from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import TEMPLATE, tiny_model, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.quantized.models import save_quantized
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mlx 4 bits", ""),
        ("mlx 6 bits", "; weights in memory: MLX 6-bit decoded"),
        ("compressed nvfp4", "; weights in memory: NVFP4 decoded"),
    ],
)
def test_weights_that_are_decoded_are_named(name: str, words: str, tmp_path: Path) -> None:
    save_quantized(tiny_model("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1), tmp_path, name)
    runs = json.loads(llm("show", tmp_path, "--json").stdout)["runs"]
    if "readable model" in runs:
        pytest.skip("nothing computes with packed weights on this machine")
    assert runs.partition(")")[2] == words


@pytest.mark.parametrize("kind", ["Q2_K", "IQ3_S"])
def test_weights_that_are_rounded_are_named(kind: str, tmp_path: Path) -> None:
    model = made("llama 3.1", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(Kind[kind], "ffn"))
    runs = json.loads(llm("show", path, "--json").stdout)["runs"]
    if "readable model" in runs:
        pytest.skip("nothing computes with packed weights on this machine")
    assert runs.endswith("Q2_K rounded to 8 bits") == (kind == "Q2_K")
    assert ("in memory" in runs) == (kind == "Q2_K")


def test_a_model_with_states_names_its_layers_and_their_memory(tmp_path: Path) -> None:
    model_type, overrides = RECURRENT["qwen 3.5"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    shown = " ".join(llm("show", folder).stdout.decode().replace("│", " ").split())
    assert "blocks 0, 2 2 x" in shown
    assert "gated delta net 4 heads, each remembers 8 x 6 values, on 2 key heads" in shown
    # Two layers: 3 inputs of 56 channels in 16 bits, and 192 sums in float32.
    assert "states 2.2 KiB for a text of any length, and up to 8 earlier ones to go back to" in shown
    account = json.loads(llm("show", folder, "--json").stdout)["account"]
    assert account["state_bytes"] == 2 * (3 * 56 * 2 + 192 * 4)
    assert account["recurrent"] > 0
