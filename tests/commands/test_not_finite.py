"""Logits that are NaN or infinite end every command with the same error, never with false ranks or a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.engine import SamplingParams
from llmcli.errors import NotFiniteError
from llmcli.inspection.evaluation.perplexity import score
from llmcli.views.terminal.to_json import has_nan
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

# Every command on a model with damaged weights.
pytestmark = pytest.mark.slow

COMMANDS = {
    "generate": ("generate", "hi there", "-t", 0, "-n", 2),
    "generate, drawn": ("generate", "hi there", "-t", 1, "--top-k", 0, "-n", 2),
    "generate, one by one": ("generate", "hi there", "-t", 1, "-n", 2, "--probs", "--json"),
    "generate, looked up": ("generate", "hi there", "-n", 2, "--lookup"),
    "generate, of a form": ("generate", "hi there", "-n", 2, "--regex", "[a-z]+", "--json", "--probs"),
    "choices": ("generate", "hi there", "--choices", "yes,no"),
    "score": ("score", "hi there"),
    "score as JSON": ("score", "hi there", "--json"),
    "attention": ("inspect", "attention", "hi there"),
    "attention of a head": ("inspect", "attention", "hi there", "--layer", 1, "--head", 0),
    "heads": ("inspect", "heads"),
    "lens": ("inspect", "lens", "hi there"),
    "lens of one token": ("inspect", "lens", "a"),
    "token": ("inspect", "token", "next", "hi there"),
    "without": ("inspect", "without", "hi", "hi there", "--answer", "x"),
    "neurons": ("inspect", "neurons", "hi there"),
    "neuron": ("inspect", "neurons", "hi there", "--layer", 1, "--neuron", 0, "--json"),
    "needle": ("inspect", "needle", "--facts", 2, "--seeds", 2, "--depths", 0),
    "trace": ("trace", "hi there", "--subject", "hi"),
}


def too_large(weights: dict[str, torch.Tensor]) -> None:
    """Weights that are finite in float32."""
    for name, values in weights.items():
        if "norm" not in name:
            values.mul_(60)


def not_a_number_in_the_middle(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = torch.nan


def one_token_not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"][40] = torch.nan


def write(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], model_type: str = "llama") -> Path:
    tiny_checkpoint(folder, model_type, max_position_embeddings=512)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, str]]:
    """Models: the folder, the dtype in which it fails, and the part that the error must name."""
    made = tmp_path_factory.mktemp("models")
    return {
        "overflow": (write(made / "overflow", too_large), "float16", "float16 overflows in block 0; --dtype bfloat16"),
        "damaged": (
            write(made / "damaged", not_a_number_in_the_middle),
            "float32",
            "block 1 has weights that are not numbers (mlp.down_proj.weight)",
        ),
        "one token": (
            write(made / "token", one_token_not_a_number),
            "bfloat16",
            "the output head has weights that are not numbers (lm_head.weight)",
        ),
    }


@pytest.mark.parametrize("kind", ["overflow", "damaged", "one token"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_failing_part_and_a_remedy(
    folders: dict[str, tuple[Path, str, str]], kind: str, command: str
) -> None:
    folder, dtype, words = folders[kind]
    result = llm(*COMMANDS[command], "-m", folder, "--dtype", dtype, "-q")
    told = result.stderr.decode()
    assert result.returncode == 1 and not result.stdout, result.stdout[:200]
    assert "not a number" in told and words in told, told


def test_comparing_editing_and_batches(folders: dict[str, tuple[Path, str, str]], tmp_path: Path) -> None:
    folder, _, words = folders["damaged"]
    for arguments in (
        ("compare", folder, folder, "hi there", "--json"),
        ("edit", "the cat is here", "--subject", "cat", "--to", "dog", "--layer", 1, "-m", folder),
    ):
        result = llm(*arguments, "-q")
        assert (result.returncode, result.stdout) == (1, b""), result.stderr
        assert words in result.stderr.decode()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hi"}\n{"prompt": "there"}\n')
    for parallel in (1, 2):
        result = llm("batch", prompts, "-m", folder, "-q", "-n", 2, "--parallel", parallel)
        assert result.returncode == 1
        assert [words in json.loads(line)["error"] for line in result.stdout.splitlines()] == [True, True]


def test_the_suggested_remedy_works(folders: dict[str, tuple[Path, str, str]]) -> None:
    for dtype in ("bfloat16", "float32"):
        assert llm("score", "hi there", "-m", folders["overflow"][0], "--dtype", dtype).returncode == 0


def test_the_python_api_raises_not_finite_error(folders: dict[str, tuple[Path, str, str]]) -> None:
    folder, dtype, _ = folders["one token"]
    loaded = llmcli.load(folder, dtype=dtype, device="cpu")
    with pytest.raises(NotFiniteError, match="the output head"):
        loaded.logits(random_ids(4))
    for probabilities in (False, True):
        with pytest.raises(NotFiniteError, match="the output head"):
            list(loaded.engine().stream(random_ids(4), SamplingParams(max_tokens=2), probabilities=probabilities))
    with pytest.raises(NotFiniteError, match="the output head"):
        loaded.engine().next_logits(random_ids(4))


def huge(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.2.mlp.up_proj.weight"].fill_(3e38)


def infinite_in_float16(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.self_attn.v_proj.weight"].fill_(1e5)


@pytest.mark.parametrize(
    ("change", "dtype", "words"),
    [
        (huge, "float32", "values overflow in block 2, even in float32"),
        (infinite_in_float16, "float16", "block 1 has infinite weights (self_attn.v_proj.weight)"),
        (lambda weights: weights["model.embed_tokens.weight"].fill_(torch.nan), "float32", "the embedding has weights"),
        (lambda weights: weights["model.norm.weight"].fill_(torch.nan), "float32", "(norm.weight)"),
    ],
)
def test_each_part_of_a_model_is_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], dtype: str, words: str
) -> None:
    loaded = llmcli.load(write(tmp_path, change), dtype=dtype, device="cpu")
    with pytest.raises(NotFiniteError) as raised:
        loaded.logits(random_ids(4))
    assert words in str(raised.value)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_packed_weights_and_their_kernel(tmp_path: Path, bits: str) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), quantize=bits, device="cpu")
    matrix = loaded.model.layers[1].mlp.down_proj.matrix  # type: ignore[union-attr]
    # All ones: the scales among the bytes are NaN.
    matrix.blocks.fill_(255)  # type: ignore[operator, union-attr]
    for run in (
        lambda: loaded.logits(random_ids(4)),
        lambda: list(loaded.engine().stream(random_ids(4), SamplingParams(max_tokens=2), probabilities=False)),
        lambda: score(loaded, random_ids(9)),
    ):
        with pytest.raises(NotFiniteError, match=r"block 1 has weights that are not numbers \(mlp.down_proj\)"):
            run()


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize(
    "part", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
)
@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_a_single_nan_reaches_the_check_through_every_operation(
    tmp_path: Path, part: str, quantize: str | None, activation: str
) -> None:
    """Maximum, rounding, softmax and ReLU could each hide a NaN."""
    tiny_checkpoint(tmp_path, "llama", hidden_act=activation)
    weights = load_file(tmp_path / "model.safetensors")
    weights[f"model.layers.1.{part}.weight"][2] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = llmcli.load(tmp_path, quantize=quantize, dtype="float32", device="cpu")
    for run in (
        lambda: loaded.logits(random_ids(4)),
        lambda: loaded.engine().next_logits(random_ids(1)),
        lambda: list(loaded.engine().stream(random_ids(70), SamplingParams(max_tokens=2), probabilities=False)),
        lambda: score(loaded, random_ids(9)),
    ):
        with pytest.raises(NotFiniteError, match=rf"block 1 has weights that are not numbers \({part}"):
            run()


def test_padding_rows_of_the_head_may_have_nan(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", vocab_size=288)
    sound = llmcli.load(folder, device="cpu").logits(random_ids(4))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][270] = torch.nan
    weights["lm_head.weight"][280] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = llmcli.load(folder, device="cpu")
    used = loaded.tokenizer.vocab_size
    assert used < 270 and torch.equal(loaded.logits(random_ids(4))[:, :used], sound[:, :used])
    for command in ("token", "lens", "score", "generate"):
        assert llm(*COMMANDS[command], "-m", folder).returncode == 0, command


def test_learned_positions_are_named(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, "gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.wpe.weight"][3] = torch.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = llmcli.load(tmp_path, dtype="float32", device="cpu")
    with pytest.raises(NotFiniteError, match=r"the embedding has weights that are not numbers \(embed_positions"):
        score(loaded, random_ids(9))


def test_a_draft_model_is_named(folders: dict[str, tuple[Path, str, str]], tmp_path: Path) -> None:
    sound = tiny_checkpoint(tmp_path / "sound", "llama")
    draft = ("--draft", folders["damaged"][0], "--draft-tokens", 2)
    result = llm("generate", "hi", "-m", sound, *draft, "-n", 8, "-t", 0)
    assert result.returncode == 1
    assert "draft model" in result.stderr.decode() and "block 1" in result.stderr.decode()


def test_a_nan_is_found_in_any_nested_value() -> None:
    assert not has_nan({"a": [1.0, float("inf")], "b": (None, "nan", b"nan", 3)})
    assert has_nan({"a": [1.0, {"b": (float("nan"),)}]})
