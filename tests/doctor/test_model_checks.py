from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.doctor import model_checks
from llmcli.doctor.finding import Finding
from llmcli.doctor.machine import implementation, machine
from llmcli.doctor.model_checks import check_model
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu.build import Library, load_library
from tests.support.models.tiny import TEMPLATE, edit_config, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama")


def findings(folder: Path, template: str | None = TEMPLATE) -> list[Finding]:
    write_text_files(folder, template=template)
    return check_model(open_checkpoint(folder))


def problems(found: list[Finding]) -> list[str]:
    return [f"{finding.subject}: {finding.message}" for finding in found if finding.level == "problem"]


def test_a_valid_model_has_no_problem(folder: Path) -> None:
    found = findings(folder)
    assert problems(found) == []
    words = {finding.message for finding in found}
    assert "261 tokens, each with an embedding" in words
    assert "one BOS token (<|bos|>) in the prompt" in words
    assert "it takes a system prompt" in words
    assert any("<|end|> (257), from generation_config.json" in word for word in words)


BEFORE, AFTER = "{{ bos_token }}", "{% if add_generation_prompt %}<|assistant|>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
LOOP = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (BEFORE + BEFORE + LOOP + AFTER, ["2 BOS tokens (<|bos|>) in a row at the start of the prompt"]),
        (
            LOOP + AFTER,
            ["it writes no BOS token (<|bos|>), although the tokenizer puts one before any other text"],
        ),
        (
            BEFORE + LOOP.replace("<|end|>", "<|im_end|>") + AFTER,
            ["it writes <|im_end|>, for which the tokenizer has no token"],
        ),
        (BEFORE + LOOP.replace("in messages", "in messages[-1:]") + AFTER, ["it leaves out earlier replies"]),
        (BEFORE + AFTER, ["it leaves out the user's message"]),
        ("{% for %}", ["has an error in line 1"]),
        (BEFORE + LOOP + AFTER + "{{ missing.thing }}", ["fails"]),
        (
            BEFORE + LOOP + AFTER + "{% if messages|length > 2 %}{{ raise_exception('one question') }}{% endif %}",
            ["it fails on a second question"],
        ),
    ],
)
def test_template_faults_are_problems(folder: Path, template: str, expected: list[str]) -> None:
    found = problems(findings(folder, template))
    assert len(found) == len(expected), found
    for problem, words in zip(found, expected, strict=True):
        assert words in problem and problem.startswith("chat template")


@pytest.mark.parametrize(
    ("template", "note"),
    [
        (None, "there is none: the model can continue texts, but not chat"),
        ("  \n", "there is none: the model can continue texts, but not chat"),
        (
            BEFORE + LOOP.replace("<|end|>", "<|system|>") + AFTER,
            "it ends replies with <|system|> (260), which no file declares; replies end there",
        ),
        (
            BEFORE + LOOP.replace("<|end|>", "</turn>") + AFTER,
            "it ends replies with '</turn>', which is not a token; replies end there",
        ),
        (
            BEFORE + LOOP.replace("in messages", "in messages if message.role != 'system'") + AFTER,
            "it leaves out the system prompt; it is put before the user's message",
        ),
        (BEFORE + LOOP, "it does not mark where the reply begins"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
            + BEFORE
            + LOOP
            + AFTER,
            "it takes no system prompt (The model's chat template refuses this conversation: No system!); it is put",
        ),
        (
            BEFORE + LOOP.replace("<|{{", "<|bos|><|{{", 1).replace("{% for", "x{% for") + AFTER,
            "2 times <|bos|> in the prompt: it is both BOS and a marker of messages",
        ),
    ],
)
def test_template_oddities_are_notes(folder: Path, template: str | None, note: str) -> None:
    found = findings(folder, template)
    assert problems(found) == []
    assert any(finding.level == "note" and note in finding.message for finding in found), found


def test_more_tokens_than_embeddings_is_a_problem(tmp_path: Path) -> None:
    large = tiny_checkpoint(tmp_path / "large", "llama", vocab_size=300)
    assert any("and 39 rows of the embedding are padding" in finding.message for finding in findings(large))
    small = tiny_checkpoint(tmp_path / "small", "llama", vocab_size=200, bos_token_id=1, eos_token_id=2)
    assert problems(findings(small)) == [
        "tokenizer: it has 261 tokens, but the model has embeddings for 200: it cannot be run"
    ]


def test_a_model_without_stop_tokens_is_a_problem(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    edit_config(folder, {}, drop=("eos_token_id",))
    (folder / "generation_config.json").unlink()
    write_text_files(folder)
    tokenizer = (folder / "tokenizer.json").read_text().replace("<|end|>", "<|over|>")
    (folder / "tokenizer.json").write_text(tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE.replace("<|end|>", "<|over|>")
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = check_model(open_checkpoint(folder))
    assert problems(found) == []
    messages = {finding.message for finding in found}
    assert "<|over|> (257), from the template ends a turn with it" in messages
    assert "it ends replies with <|over|> (257), which no file declares; replies end there" in messages
    config["chat_template"] = TEMPLATE.replace("<|end|>", "")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert problems(check_model(open_checkpoint(folder))) == [
        "stop tokens: no file names a token that ends a reply: replies end only when the context is full"
    ]


def test_recommended_sampling_settings_are_shown(folder: Path) -> None:
    path = folder / "generation_config.json"
    before = path.read_text()
    assert any("no generation config recommends" in finding.message for finding in findings(folder))
    path.write_text(json.dumps(json.loads(before) | {"temperature": 0.6, "top_k": 20}))
    assert any("recommend temperature 0.6, top-k 20" in finding.message for finding in findings(folder))
    path.write_text(before)


def test_weights_that_do_not_fit_into_memory_are_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "memory", lambda device: (1 << 30, 1 << 10))
    assert "of which 1 KiB are free" in problems(findings(folder))[0]
    monkeypatch.setattr(model_checks, "memory", lambda device: (None, None))
    assert problems(findings(folder)) == []


def test_the_machine_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    kept = tmp_path / "DATA" / "llmcli" / "models"
    kept.mkdir(parents=True)
    (kept / "a.gguf").write_bytes(bytes(1000))
    (kept / "b.gguf").symlink_to(kept / "a.gguf")
    found = machine("cpu", "float32")
    folders = {folder.purpose: folder for folder in found.folders}
    size = folders["data and models"].bytes
    assert size is not None and 1000 <= size < 1400
    assert (folders["cache"].bytes, found.device, found.dtype) == (None, "cpu", "float32")
    assert found.cores >= 1 and found.threads >= 1 and "cpu" in found.devices
    assert found.free_memory_bytes is None or 0 < found.free_memory_bytes <= (found.memory_bytes or 0)
    assert found.free_disk_bytes is not None and found.free_disk_bytes > 0


def test_the_implementation_is_named_with_the_reason_for_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert implementation(torch.device("mps")) == "the readable model (no kernel for mps)"
    assert implementation(cpu).startswith(f"the C kernel ({load_library().isa})")
    monkeypatch.setattr("llmcli.kernels.cpu.build.load_library", no_library)
    assert implementation(cpu) == "the readable model (no C compiler found)"


def no_library() -> Library:
    raise NoKernelError("no C compiler found")
