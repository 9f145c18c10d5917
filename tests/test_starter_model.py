"""The starter model against the reference implementation with the same decoded weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import SamplingParams, Step
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.text.chat.prompt import Message, encode_chat
from tests.support.terminal.cli import llm

pytestmark = pytest.mark.starter

PROMPTS = [
    "What is the capital of France?",
    "def fibonacci(n):",
    "Wer hat den Faust geschrieben? 🤔",
]


@pytest.fixture(scope="module")
def path() -> Path:
    """The starter model, fetched if necessary."""
    return starter_path() or fetch_starter()


@pytest.fixture(scope="module")
def loaded(path: Path) -> llmcli.LoadedModel:
    return llmcli.load(path, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reference(loaded: llmcli.LoadedModel) -> object:
    import transformers

    config = loaded.config
    rope = config.layers[0].rope
    assert rope is not None
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": rope.theta},
        )
    ).eval()
    state = {f"model.{name}": value for name, value in loaded.model.state_dict().items() if name != "lm_head.weight"}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return model


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_replies_equal_those_of_the_reference(
    loaded: llmcli.LoadedModel, reference: object, prompt: str
) -> None:
    assert loaded.template is not None
    ids = encode_chat(loaded.tokenizer, loaded.template, [Message("user", prompt)])
    with torch.inference_mode():
        theirs = reference.generate(  # type: ignore[attr-defined]
            torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=list(loaded.stop_ids), pad_token_id=0
        )[0, len(ids) :].tolist()
    events = loaded.engine().stream(ids, SamplingParams(temperature=0, max_tokens=64))
    ours = [event.id for event in events if isinstance(event, Step)]
    assert ours == [token for token in theirs if token not in loaded.stop_ids]
    assert len(ours) > 5


def test_weights_equal_those_of_the_reference_decoder(path: Path, loaded: llmcli.LoadedModel) -> None:
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for ours, theirs in (("embed_tokens", "token_embd"), ("layers.7.mlp.down_proj", "blk.7.ffn_down")):
        tensor = tensors[f"{theirs}.weight"]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(loaded.model.get_parameter(f"{ours}.weight"), expected)


def test_the_starter_knows_the_capital_of_france(path: Path) -> None:
    result = llm("generate", "What is the capital of France?", "-t", 0, "-m", path)
    assert "Paris" in result.stdout.decode()


def test_loading_needs_little_more_memory_than_the_weights(path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from llmcli.checkpoint.checkpoint import open_checkpoint\n"
        "from llmcli.checkpoint.load_weights import load_weights\n"
        "checkpoint = open_checkpoint(Path(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "model = load_weights(checkpoint, torch.device('cpu'), getattr(torch, sys.argv[2]))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print((after - before) * 1024 / sum(p.nbytes for p in model.parameters()))"
    )
    for dtype in ("float32", "bfloat16"):
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), dtype],
            capture_output=True, text=True, check=True, timeout=120, env={**os.environ},
        )  # fmt: skip
        assert float(run.stdout) < 1.15
