"""The public Python API, and what loading refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.api import load_checkpoint
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError, ModelNotFoundError, UsageError
from llmcli.text.chat.prompt import Message, encode_chat
from llmcli.text.chat_template.template import ChatTemplate
from tests.support.models.puppet import write_thinker
from tests.support.models.tiny import SPECIALS, TEMPLATE, edit_config, random_ids, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", "llama")


def test_a_loaded_model_has_the_documented_attributes(folder: Path) -> None:
    loaded = llmcli.load(str(folder), device="cpu", dtype="float32", quantize=None)
    ids = loaded.tokenizer.encode("Hi")
    assert loaded.logits(ids).shape == (len(ids), loaded.config.vocab_size)
    assert isinstance(loaded.model, torch.nn.Module)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.template is not None
    assert (loaded.name, loaded.source) == ("model", folder)
    assert sum(1 for _ in loaded.engine().stream(ids, llmcli.engine.SamplingParams(max_tokens=3, seed=1))) >= 2


def test_progress_of_loading_reaches_the_total(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    llmcli.load(folder, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_invalid_options_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantized to 'int5'"):
        llmcli.load(folder, quantize="int5")
    with pytest.raises(UsageError, match="no tokens"):
        llmcli.load(folder).logits([])
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        llmcli.load(tmp_path / "nowhere")


def change_weights(folder: Path, *, drop: str | None = None, add: dict[str, torch.Tensor] | None = None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if drop is not None:
        del tensors[drop]
    save_file(tensors | (add or {}), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"]
)
def test_a_missing_tensor_is_an_error(folder: Path, name: str) -> None:
    change_weights(folder, drop=name)
    with pytest.raises(CheckpointError, match=r"head|" + name.replace(".", r"\.")):
        llmcli.load(folder)


@pytest.mark.parametrize(
    "name", ["model.layers.1.self_attn.q_norm.weight", "model.layers.3.mlp.up_proj.weight", "model.extra.weight"]
)
def test_an_unexpected_tensor_of_the_model_is_an_error(folder: Path, name: str) -> None:
    change_weights(folder, add={name: torch.ones(4)})
    with pytest.raises(CheckpointError, match="does not describe"):
        llmcli.load(folder)


def test_an_unrelated_tensor_is_noted(folder: Path) -> None:
    change_weights(folder, add={"optimizer.step": torch.ones(1)})
    assert "optimizer.step" in llmcli.load(folder).notes[0]
    result = llm("generate", "hi", "-n", 1, "-m", folder)
    assert (result.returncode, b"optimizer.step" in result.stderr) == (0, True)
    assert llm("generate", "hi", "-n", 1, "-m", folder, "--quiet").stderr == b""


def test_a_model_can_be_loaded_in_inference_mode(folder: Path) -> None:
    expected = llmcli.load(folder).logits([1, 2, 3])
    with torch.inference_mode():
        inside = llmcli.load(folder)
    assert torch.equal(inside.logits([1, 2, 3]), expected)


def test_large_dense_weights_give_a_hint(folder: Path) -> None:
    assert llmcli.load(folder, device="cpu").notes == ()
    load = partial(load_checkpoint, open_checkpoint(folder), device="cpu", heavy=1000)
    assert "--quantize int8" in load().notes[0] and "Each start then packs them anew" in load().notes[0]
    assert load(quantize="int8").notes == ()
    assert load(dtype="float32").notes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 64),
        ("intermediate_size", 50),
        ("num_hidden_layers", 2),
        ("num_hidden_layers", 4),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("vocab_size", 300),
        ("vocab_size", 200),
    ],
)
def test_false_sizes_are_refused_before_allocation(folder: Path, key: str, value: int) -> None:
    edit_config(folder, {key: value}, drop=("head_dim",) if key == "num_attention_heads" else ())
    if key == "num_attention_heads":
        edit_config(folder, {"head_dim": 8})
    with pytest.raises(CheckpointError):
        llmcli.load(folder)
    assert llm("show", folder).returncode == 4


def test_a_tokenizer_larger_than_the_embedding_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", vocab_size=200, bos_token_id=1, eos_token_id=2)
    with pytest.raises(CheckpointError, match=r"261 tokens.*200"):
        llmcli.load(folder)


def test_seeded_replies_repeat_across_loads(folder: Path) -> None:
    params = llmcli.engine.SamplingParams(temperature=1.2, top_k=0, seed=5, max_tokens=20)
    prompt = random_ids(5)
    replies = [list(llmcli.load(folder).engine().stream(prompt, params, probabilities=False))[1:-1] for _ in range(2)]
    assert replies[0] == replies[1]


def test_the_tokenizer_is_checked_before_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", vocab_size=200, bos_token_id=1, eos_token_id=2)
    monkeypatch.setattr("llmcli.api.load_weights", None)
    with pytest.raises(CheckpointError, match=r"261 tokens.*200"):
        load_checkpoint(open_checkpoint(folder), large=0)


def test_the_end_of_turn_token_of_the_template_is_a_stop_id(folder: Path, tmp_path: Path) -> None:
    write_text_files(folder, template=TEMPLATE.replace("<|end|>", "<|system|>"))
    loaded = llmcli.load(folder, device="cpu", dtype="float32")
    system = SPECIALS.index("<|system|>") + 256
    assert system not in loaded.declared_stop_ids
    assert loaded.stop_ids[system] == ("the template ends a turn with it",)
    assert set(loaded.stop_ids) == {*loaded.declared_stop_ids, system}
    file = tmp_path / "other.jinja"
    file.write_text(TEMPLATE)
    other = llmcli.load(folder, device="cpu", dtype="float32", template=str(file))
    assert set(other.stop_ids) == set(other.declared_stop_ids)
    with pytest.raises(UsageError, match="cannot be read"):
        llmcli.load(folder, template="./none.jinja")


def test_a_damaged_template_raises_only_when_it_is_used(folder: Path) -> None:
    write_text_files(folder, template="{% for %}")
    loaded = llmcli.load(folder, device="cpu", dtype="float32")
    assert set(loaded.stop_ids) == set(loaded.declared_stop_ids)
    assert list(loaded.engine().stream([1, 2], llmcli.engine.SamplingParams(max_tokens=1)))
    assert loaded.template is not None
    with pytest.raises(CheckpointError, match="error in line 1"):
        encode_chat(loaded.tokenizer, loaded.template, [Message("user", "hi")])


def test_a_conversation_passes_earlier_thoughts_to_the_template(tmp_path: Path) -> None:
    loaded = llmcli.load(write_thinker(tmp_path / "thinker", b"Hm, 2.\n", b"\tYes!"), device="cpu", dtype="float32")
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]"
        "{% endif %}{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    )
    template = ChatTemplate(source, special_tokens={})
    conversation = llmcli.engine.Conversation(loaded.engine(), loaded.tokenizer, template)
    list(conversation.ask("hi", llmcli.engine.SamplingParams(temperature=0)))
    written = loaded.tokenizer.decode(conversation.prompt("and?"), skip_special=False)
    assert written == "<|user|>hi<|end|><|assistant|>[THINK]Hm, 2.[/THINK]Yes!<|end|><|user|>and?<|end|><|assistant|>"
    # The markers are tokens of the model.
    assert conversation.prompt("and?").count(loaded.tokenizer.token_to_id("[/THINK]") or 0) == 1
