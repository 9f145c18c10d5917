"""Benchmarks with random weights in the shapes of published models."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.bench import shapes
from llmcli.bench.arms.llmcli import LlmcliArm
from llmcli.bench.bytes_per_token import shape_facts
from llmcli.bench.hardware.machine import commit
from llmcli.bench.plan import BenchPlan, Sizes
from llmcli.bench.random_model import random_model, stub_tokenizer
from llmcli.bench.shapes import SHAPES, configured, shape_config
from llmcli.bench.target import ShapeTarget
from llmcli.checkpoint import memory_estimate
from llmcli.checkpoint.load_packed import Packing
from llmcli.errors import OutOfMemoryError, UsageError
from llmcli.model import Transformer
from llmcli.model.quantized.matrix import PackedMatrix
from tests.support.terminal.cli import llm

CPU = torch.device("cpu")
SIZES = Sizes((9,), (0, 20), 3)
TINY: dict[str, Any] = {
    **SHAPES["llama-3.2-1b"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
EXPERTS: dict[str, Any] = {**SHAPES["mixtral-8x7b-2layers"], **{name: TINY[name] for name in list(TINY)[1:7]}}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny shape, added to `SHAPES`."""
    monkeypatch.setattr(shapes, "SHAPES", {**SHAPES, "tiny": TINY})
    monkeypatch.setattr("llmcli.bench.arms.hf_transformers.SHAPES", {"tiny": TINY}, raising=False)
    return "tiny"


@pytest.mark.parametrize(
    ("name", "millions"),
    # Published numbers; for Mixtral two of 32 layers and the embeddings.
    [("smollm2-135m", 134.5), ("llama-3.2-1b", 1235.8), ("llama-3.2-3b", 3212.7), ("llama-3.1-8b", 8030.3),
     ("mistral-7b", 7248.0), ("qwen3-8b", 8190.7), ("mixtral-8x7b-2layers", 3164.7)],
)  # fmt: skip
def test_shapes_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    facts = shape_facts(name, shape_config(name), SIZES, dtype=torch.bfloat16, packing=None)
    assert facts.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert facts.stored_bytes == 2 * facts.parameters
    assert facts.random_weights


def test_bytes_per_token_of_an_8b_model() -> None:
    config = shape_config("llama-3.1-8b")
    per_token = {
        packing: shape_facts("8b", config, SIZES, dtype=torch.bfloat16, packing=packing).weight_bytes_per_token
        for packing in (None, "int8", "int4")
    }
    weights = 8_030_261_248 - 128256 * 4096
    assert per_token[None] == 2 * weights
    # int8: 8.5 bits a weight. int4: 5 bits, and 8.5 for the head. Norms are in 16 bits.
    assert per_token["int8"] == pytest.approx(weights * 8.5 / 8, rel=0.001)
    assert per_token["int4"] == pytest.approx((weights - 128256 * 4096) * 5 / 8 + 128256 * 4096 * 8.5 / 8, rel=0.001)


def test_every_shape_is_known_to_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for name, values in SHAPES.items():
        config = transformers.AutoConfig.for_model(**values)
        assert (config.num_hidden_layers, config.vocab_size) == (shape_config(name).num_layers, values["vocab_size"])


@pytest.mark.parametrize("values", [TINY, EXPERTS], ids=["llama", "mixtral"])
@pytest.mark.parametrize("packing", [None, "int8", "int4"])
def test_random_weights_give_finite_logits_of_usual_size(values: dict[str, Any], packing: Packing | None) -> None:
    torch.manual_seed(3)
    loaded = random_model("tiny", configured(values), CPU, torch.float32, packing)
    assert not any(parameter.device.type == "meta" for parameter in loaded.model.parameters())
    assert any(isinstance(module, PackedMatrix) for module in loaded.model.modules()) == (packing is not None)
    logits = loaded.logits(list(range(40)))
    assert logits.isfinite().all()
    # Neither vanishing nor overflowing: normalized states times a head of variance 1 / columns give about 1.
    assert 0.3 < float(logits.std()) < 3
    weight: Any = loaded.model.get_submodule("layers.0.self_attn.q_proj")
    assert float(weight.weight.std()) == pytest.approx(1 / 8, rel=0.1)
    assert abs(float(weight.weight.mean())) < 0.01


def test_the_stub_tokenizer_has_distinct_bytes_for_every_token() -> None:
    tokenizer = stub_tokenizer(1000)
    assert tokenizer.vocab_size == 1000
    assert len({tokenizer.token_bytes(token) for token in range(1000)}) == 1000
    assert tokenizer.decode(tokenizer.encode("Any text.")) == "Any text."


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_llmcli_runs_a_shape(tiny: str, quantize: str | None) -> None:
    ids = ShapeTarget(tiny).ids(SIZES)
    assert ids == ShapeTarget(tiny).ids(SIZES)
    plan = BenchPlan("llmcli", "", "cpu", "float32", 1, ids, SIZES, quantize=quantize, shape=tiny)
    run = LlmcliArm(plan, None).run(ids[:20], 4)
    assert (run.read, run.rest_s > 0) == (20, True)


@pytest.mark.parametrize("compiled", [True, False])
def test_transformers_runs_a_shape_compiled_or_not(tiny: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    from llmcli.bench.arms.hf_transformers import Transformers, TransformersCompiled

    ids = ShapeTarget(tiny).ids(SIZES)
    plan = BenchPlan("transformers", "", "cpu", "auto", 1, ids, SIZES, shape=tiny)
    torch.manual_seed(0)
    runner = (TransformersCompiled if compiled else Transformers)(plan)
    # Skip compiling, which takes long and is not tested here.
    monkeypatch.setattr(transformers.PreTrainedModel, "get_compiled_call", lambda self, config: self.__call__)
    said: list[list[int]] = []

    def look(module: object, args: object, output: Any) -> None:
        said[-1].append(int(output.logits[0, -1].argmax()))

    # In float32 with large weights, so that rounding cannot change the greatest logit.
    for parameter in runner._model.float().parameters():
        parameter.data.normal_(0, 0.3)
    hook = runner._model.register_forward_hook(look)
    for start in (0, 1, 0):
        said.append([])
        assert runner.run(ids[start : start + 20], 5).read == 20
    # Earlier replies leave no trace, and a static cache gives the same tokens as a growing one.
    hook.remove()
    assert said[0][-5:] == said[2]
    assert len(set(said[2])) > 1
    grown = list(ids[:20])
    with torch.inference_mode():
        for _ in range(5):
            grown.append(int(runner._model(torch.tensor([grown])).logits[0, -1].argmax()))
    assert said[2] == grown[20:]
    assert ("static cache" in runner.how) == compiled


def test_a_shape_that_does_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "memory", lambda device: (1 << 40, 6 << 30))
    with pytest.raises(OutOfMemoryError, match=r"llama-3\.1-8b of random weights.*--quantize int4 \("):
        random_model("llama-3.1-8b", shape_config("llama-3.1-8b"), CPU, torch.bfloat16)


def test_an_unknown_shape_is_refused(tiny: str) -> None:
    with pytest.raises(UsageError, match=r"smollm2-135m.*mixtral"):
        shape_config("gpt-5")
    result = llm("bench", "--shape", "gpt-5")
    assert (result.returncode, b"--shape takes" in result.stderr) == (2, True)


def test_results_are_written_to_a_file(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as a user runs it, but with every arm in this process."""
    from llmcli.bench import run as run_module
    from llmcli.bench.arms import worker

    def answers(plan: BenchPlan, env: object) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        if plan.arm == "machine":
            return [{"measure": "bandwidth_bytes_per_s", "size": None, "value": 1e9}]
        worker._run(plan, said.append)
        return said

    monkeypatch.setattr(run_module, "answers", answers)
    out = tmp_path / "results" / "tiny.json"
    flags = ("--quick", "--rounds", 1, "--threads", 1, "--quantize", "int8", "--against", "llama.cpp,transformers")
    result = llm("bench", "--shape", tiny, *flags, "--out", out, "--device", "cpu")
    told = result.stdout.decode()
    assert result.returncode == 0, result.stderr.decode()
    assert "tiny  random weights" in told
    assert "cpu, int8" in told
    found = json.loads(out.read_text())
    assert found["model"]["random_weights"] is True
    assert (found["model"]["format"], found["settings"]["quantize"]) == ("random weights", "int8")
    assert {"date", "commit", "versions", "machine"} <= set(found)
    measures = {(one["arm"], one["measure"]) for one in found["measurements"]}
    assert ("llmcli", "decode_tokens_per_s") in measures
    assert ("transformers", "decode_tokens_per_s") in measures
    assert not any(measure.startswith(("first_token", "exit")) for _, measure in measures)
    (refused,) = found["failures"]
    assert refused["arm"] == "llama.cpp"
    share = next(
        one["bandwidth_share"]
        for one in found["summaries"]
        if (one["arm"], one["measure"]) == ("llmcli", "decode_tokens_per_s")
    )
    assert share > 0


def test_the_commit_is_that_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llmcli"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("llmcli.__file__", str(package / "__init__.py"))
    assert commit() is None

    def git(*arguments: str) -> str:
        names = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ("git", "-C", str(tmp_path), *names, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    assert commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True")
    assert commit() == f"{git('rev-parse', 'HEAD')}-dirty"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("packing", [None, "int8", "int4"])
def test_random_weights_are_made_on_the_device(packing: Packing | None) -> None:
    loaded = random_model("tiny", configured(TINY), torch.device("cuda"), torch.bfloat16, packing)
    assert isinstance(loaded.model, Transformer)
    assert loaded.model.device.type == "cuda"
    assert loaded.logits([1, 2, 3]).isfinite().all()
