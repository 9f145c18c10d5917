"""The step that a model gets on a GPU, and the reason where it is not the fastest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.checkpoint.load_packed import PackingSizes, attach_packed_matrices, packed_formats, planned_formats
from llmcli.engine import Engine, SamplingParams
from llmcli.engine.events import Finish, Step
from llmcli.kernels.cuda.support import first_line, reads_packed, unsupported
from llmcli.kernels.select import cuda_step, why_no_kernel
from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig, Transformer
from llmcli.model.quantized.layout import PackedFormat, narrow, wide
from tests.support.models.random_models import pack_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
INTERPRETED = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(), reason="Triton is not installed, or compiles for a GPU"
)
PLAIN = ModelConfig(
    vocab_size=262, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2, head_dim=8, context_length=64,
    norm_eps=1e-5, layers=(LayerConfig(None),),
)  # fmt: skip
GROUPED = replace(
    PLAIN, layers=(LayerConfig(None, experts=ExpertsConfig(4, 2, 24, groups=2, groups_chosen=1)),)
)  # fmt: skip

EXPERTS = replace(PLAIN, layers=(LayerConfig(None, experts=ExpertsConfig(4, 2, 32)),))


def made(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.15)
    return model


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    """Pretend that there is a GPU."""
    monkeypatch.setattr("torch.version.cuda", "12.8")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _device: "a GPU")


def test_reasons_for_using_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    assert why_no_kernel(PLAIN, CUDA) == "this PyTorch is not for CUDA"
    gpu(monkeypatch, (7, 5))
    assert why_no_kernel(None, CUDA) == "compute capability 7.5, less than 8.0"
    gpu(monkeypatch)
    monkeypatch.setattr("llmcli.kernels.cuda.support.find_spec", lambda _name: None)
    assert why_no_kernel(PLAIN, CUDA) == "Triton is not installed"
    assert why_no_kernel(GROUPED, CUDA) == unsupported(GROUPED) == "experts chosen in groups"
    monkeypatch.setattr("llmcli.kernels.cuda.support.find_spec", lambda _name: object())
    assert why_no_kernel(PLAIN, CUDA) is why_no_kernel(None, CUDA) is None


def test_unsupported_models_run_in_a_graph_of_the_readable_model() -> None:
    step = cuda_step(made(GROUPED), unsupported(GROUPED))
    assert step.name == "readable model in a CUDA graph, float32 (experts chosen in groups)"


def test_the_readable_model_runs_where_no_graph_is_possible() -> None:
    step = cuda_step(pack_model(made(GROUPED), narrow(4)), unsupported(GROUPED))
    reason = "experts chosen in groups, and no CUDA graph: packed experts are chosen on the CPU"
    assert step.capabilities.is_readable and step.name.endswith(f"({reason})")


@pytest.mark.slow
@INTERPRETED
def test_an_engine_generates_the_same_tokens_on_every_path(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path / "model", "llama"), device="cpu", dtype="float32")
    step = cuda_step(loaded.model, None)
    assert step.name == "triton kernels (interpreted), float32"
    recorded = cuda_step(loaded.model, "a reason")
    texts = []
    for each in (None, step, recorded):
        engine = Engine(loaded.model, loaded.tokenizer, step=each)
        # Without probabilities, tokens are sampled on the device.
        for probabilities in (True, False):
            params = SamplingParams(temperature=1.2, seed=1, max_tokens=3)
            events = list(engine.stream([1, 2, 3, 4], params, probabilities=probabilities))
            finish = events[-1]
            assert isinstance(finish, Finish) and (each is None or finish.stats.path == each.name)
            texts.append([event.id for event in events if isinstance(event, Step)])
    assert all(text == texts[0] for text in texts) and len(texts[0]) == 3


@INTERPRETED
@pytest.mark.parametrize("packed", [False, True])
def test_kernels_that_do_not_compile_are_replaced(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pack_model(made(EXPERTS), wide(4)) if packed else made(PLAIN)
    step = cuda_step(model, None)

    def fail(_plan: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr("llmcli.kernels.cuda.launch_plan.LaunchPlan.launch", fail)
    cache, other = model.new_cache(), model.new_cache()
    for token in (5, 6, 7):
        theirs = model(torch.tensor([[token]]), other)[0]
        ours = step.forward([token], cache) if token == 6 else step.forward_device_token(torch.tensor([token]), cache)
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert step.name == (
        "readable model, cpu, float32 (Triton: Failed to find C compiler., and no CUDA graph: packed experts "
        "are chosen on the CPU)"
        if packed
        else "readable model in a CUDA graph, float32 (Triton: Failed to find C compiler.)"
    )


@INTERPRETED
def test_without_dependent_launch_kernels_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcli.kernels.cuda.launch_plan import LaunchPlan
    from llmcli.kernels.cuda.step import CudaStep

    model, launched = made(PLAIN), []
    step = cuda_step(model, None)
    assert isinstance(step, CudaStep)
    launch = LaunchPlan.launch

    def fail_once(plan: LaunchPlan) -> None:
        launched.append(plan)
        if len(launched) == 1:
            raise RuntimeError("CUDA error: operation not supported")
        launch(plan)

    monkeypatch.setattr("llmcli.kernels.cuda.launch_plan.LaunchPlan.launch", fail_once)
    step._pdl = True
    cache, other = model.new_cache(), model.new_cache()
    theirs = torch.cat([model(torch.tensor([[token]]), other)[0] for token in (5, 6, 7)])
    ours = [
        step.forward([5], cache),
        step.forward_device_token(torch.tensor([6]), cache).clone(),
        step.forward([7], cache),
    ]
    assert torch.allclose(torch.cat(ours), theirs, atol=1e-5)
    # The failed plan was made again, and the new one is used.
    assert launched[0] is not launched[1] is launched[2] and not step._pdl
    assert step.name.startswith("triton kernels")


@INTERPRETED
def test_decode_steps_use_kernels_if_those_for_several_tokens_do_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcli.kernels.cuda.launch_plan import LaunchPlan

    model = made(PLAIN)
    step = cuda_step(model, None)
    launch = LaunchPlan.launch

    def fail(plan: LaunchPlan) -> None:
        if plan.tokens > 1:
            raise RuntimeError("out of resource: shared memory")
        launch(plan)

    monkeypatch.setattr("llmcli.kernels.cuda.launch_plan.LaunchPlan.launch", fail)
    cache, ids = model.new_cache(), [5, 6, 7, 8, 9]
    theirs = model(torch.tensor([ids]), model.new_cache())[0]
    ours = [step.forward(ids[:2], cache, only_last=False), step.forward(ids[2:4], cache, only_last=False)]
    assert torch.allclose(torch.cat([*ours, step.forward(ids[4:], cache)]), theirs, atol=1e-5)
    assert step.name.startswith("triton kernels")


def test_a_triton_that_cannot_be_imported_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llmcli.kernels.cuda.step", None)
    step = cuda_step(made(PLAIN), None)
    assert "(Triton cannot be imported: " in step.name


def test_gpus_without_cuda_use_the_readable_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(Transformer, "device", CUDA)
    step = cuda_step(made(PLAIN), "this PyTorch is not for CUDA")
    assert step.capabilities.is_readable and step.name.endswith("(this PyTorch is not for CUDA)")


def test_a_compiler_error_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    failure = subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c", "-I", "a folder"])
    assert first_line(failure) == "gcc failed with exit code 1, as Python.h is missing"
    (tmp_path / "Python.h").touch()
    assert first_line(failure) == "gcc failed with exit code 1"
    assert first_line(RuntimeError("one\ntwo")) == "one"
    assert first_line(AssertionError()) == "AssertionError"


@INTERPRETED
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    ("config", "others", "covered"),
    [
        (PLAIN, (), True),
        (PLAIN, ("down_proj", "v_proj"), True),
        (PLAIN, ("up_proj",), False),
        (replace(PLAIN, gated=False), ("down_proj",), True),
        (EXPERTS, (), True),
        (replace(PLAIN, layers=(LayerConfig(None, experts=ExpertsConfig(4, 2, 24)),)), (), False),
    ],
)
def test_packed_weights_are_planned_where_the_kernels_support_them(
    config: ModelConfig, others: tuple[str, ...], covered: bool, small: bool
) -> None:
    """`others` are packed in 8 bits, all other matrices in 4."""
    model = made(config)
    sizes = PackingSizes(short_groups_below=1 << 30 if small else 0)
    all_of_them = packed_formats(planned_formats(model, "int4", None, CUDA, sizes))
    assert all_of_them["lm_head.weight"] == wide(8, 32 if small else None)
    planned: dict[str, PackedFormat] = {
        name: all_of_them["lm_head.weight"] if name.removesuffix(".weight").endswith(others or "none") else kept
        for name, kept in all_of_them.items()
    }
    assert reads_packed(config, planned) is covered
    # A dense matrix has a different format from a packed one.
    if others == ("up_proj",):
        assert not reads_packed(config, {name: kept for name, kept in planned.items() if others[0] not in name})
    for name, matrix in attach_packed_matrices(model, planned, torch.float32, CPU).items():
        matrix.blocks.zero_()
        assert matrix.format == planned[name]
    step = cuda_step(model, None)
    assert step.name.startswith("triton kernels") is covered, step.name


def test_triton_is_not_imported_without_a_gpu() -> None:
    code = "import sys, llmcli.api; print('triton' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "False"
