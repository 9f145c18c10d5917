"""The C kernel computes a float32 router in a bfloat16 model."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import Transformer
from llmcli.model.parameters import parameters_of
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import random_model
from tests.support.models.tiny import random_ids

IDS = random_ids(30)


def model(*, float32: bool) -> Transformer:
    """A bfloat16 mixture of experts whose selection biases differ by less than bfloat16 can represent."""
    model_type, overrides = CASES["qwen3-moe"]
    config = random_model(model_type, **overrides).config
    layers = tuple(
        replace(layer, experts=layer.experts and replace(layer.experts, float32_router=True, selection_bias=True))
        for layer in config.layers
    )
    made = Transformer(replace(config, layers=layers))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0, 0.15) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
            if name.endswith("mlp.gate.weight"):
                parameter.zero_()
            elif name.endswith("e_score_correction_bias"):
                parameter.copy_(30 + 1e-4 * torch.randperm(len(parameter)))
    for name, info in parameters_of(made.config).items():
        parameter = made.get_parameter(name)
        if not (info.float32 and float32):
            parameter.data = parameter.data.bfloat16()
    return made.eval()


@torch.inference_mode()
def test_a_float32_router_chooses_the_readable_models_experts() -> None:
    kept, rounded = model(float32=True), model(float32=False)
    expected = kept(torch.tensor([IDS]))[0].float()

    def error(logits: torch.Tensor) -> float:
        return float((logits - expected).norm() / expected.norm())

    step = CpuStep(kept)
    assert error(step.forward(IDS, kept.new_cache(), only_last=False)) < 0.03
    # Rounded to bfloat16 all biases are equal, and other experts are chosen.
    assert error(rounded(torch.tensor([IDS]))[0].float()) > 0.1
