"""The comparison of a kernel with the readable model passes right kernels and detects wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from llmcli.kernels.base import FastStep
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.select import slower_step
from llmcli.kernels.trust.comparison import CPU_CASES, CUDA_CASES, fault_of
from llmcli.kernels.trust.tiny_models import LLAMA
from llmcli.model import Transformer

CPU = torch.device("cpu")
FLOAT32 = [case for case in CPU_CASES if case.name.startswith("float32")]


def without(**values: Any) -> Callable[[Transformer], None]:
    """Change a field of a model's configuration, or of all layers that use it."""

    def change(model: Transformer) -> None:
        layers = tuple(
            replace(layer, **{name: value for name, value in values.items() if getattr(layer, name, None) is not None})
            for layer in model.config.layers
        )
        rest: dict[str, Any] = {name: value for name, value in values.items() if hasattr(model.config, name)}
        model.config = replace(model.config, layers=layers, **rest)

    return change


def zeroed(name: str) -> Callable[[Transformer], None]:
    """Set the parameters of this name to zero."""

    def change(model: Transformer) -> None:
        with torch.no_grad():
            for own, parameter in model.named_parameters():
                if own.endswith(name):
                    parameter.zero_()

    return change


def step_of_changed(change: Callable[[Transformer], None]) -> Callable[[Transformer], FastStep]:
    def make(model: Transformer) -> FastStep:
        change(model)
        return CpuStep(model, threads=1)

    return make


def test_the_c_kernel_passes() -> None:
    assert fault_of(CPU_CASES, lambda model: CpuStep(model, threads=2), CPU) == ""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None or torch.cuda.is_available(), reason="Triton is not interpreted")
def test_the_interpreted_triton_kernels_pass() -> None:
    from llmcli.kernels.cuda.step import CudaStep

    names = []

    def make(model: Transformer) -> FastStep:
        step = CudaStep(model, slower_step)
        names.append(step.name)
        return step

    assert fault_of(CUDA_CASES, make, CPU) == ""
    assert names == ["triton kernels (interpreted), bfloat16/int4 g32/int8 g32"]


@pytest.mark.parametrize(
    "change",
    [
        without(window=None),
        without(chunk=None),
        without(rope=None),
        without(qk_norm=None),
        without(attention_softcap=None),
        without(logit_softcap=None),
        without(activation="relu"),
        *map(zeroed, ("q_proj.bias", "v_proj.bias", "o_proj.bias", "up_proj.bias", "gate.bias", "down_proj_bias")),
        *map(zeroed, ("sinks", "embed_positions.weight", "layernorm.bias", "shared_expert.up_proj.weight")),
    ],
)
def test_a_feature_that_is_left_out_is_detected(change: Callable[[Transformer], None]) -> None:
    assert "the readable model's (rounding: 0.1 %)" in fault_of(FLOAT32, step_of_changed(change), CPU)


@pytest.mark.parametrize("name", [".A", ".D", "dt_bias", "dt_proj.bias", "conv1d.weight", "conv.weight", "gate_bias"])
def test_a_part_of_recurrent_layers_that_is_left_out_is_detected(name: str) -> None:
    cases = [case for case in CPU_CASES if "recurrent" in case.name]
    assert "the readable model's (rounding: 0.1 %)" in fault_of(cases, step_of_changed(zeroed(name)), CPU)


@pytest.mark.parametrize("case", CPU_CASES, ids=lambda case: case.name)
def test_wrong_weights_are_detected_in_every_format(case: Any) -> None:
    name = ".A" if "recurrent" in case.name else "q_proj.bias"
    fault = fault_of([case], step_of_changed(zeroed(name)), CPU)
    assert fault.startswith(f"{case.name}, a prompt: logits differ by ")


def test_logits_that_are_not_finite_are_detected() -> None:
    class Broken(CpuStep):
        def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return super().forward(*arguments, **options) * torch.nan

    fault = fault_of(CPU_CASES, Broken, CPU)
    assert fault == "float32, a prompt: logits are not finite, unlike the readable model's (rounding: 0.1 %)"


@pytest.mark.parametrize(
    ("method", "seen_as"),
    [
        ("forward_each", "a few tokens as if one by one"),
        ("forward_rows", "two texts"),
        ("forward_multi_step", "several tokens in one call"),
    ],
)
def test_every_kind_of_call_is_compared(method: str, seen_as: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(CpuStep, method)

    def wrong(*arguments: Any) -> Any:
        given = right(*arguments)
        return [(token + 1) % LLAMA.vocab_size for token in given] if isinstance(given, list) else given.flip(-1)

    monkeypatch.setattr(CpuStep, method, wrong)
    assert fault_of(CPU_CASES, CpuStep, CPU).startswith(f"float32, {seen_as}: logits differ by ")
