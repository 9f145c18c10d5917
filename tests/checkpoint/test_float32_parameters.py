"""Parameters that `transformers` keeps in float32 stay float32 here, in every dtype of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.memory_estimate import parameter_bytes
from llmcli.inspection.core.neuron_values import activations, firing
from llmcli.model import Transformer
from llmcli.model.meta_device import meta_model
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.parameters import parameters_of
from tests.support.gguf.writer import write_gguf
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model

ROUTED = [name for name, (model_type, _) in CASES.items() if model_type.startswith("deepseek")]
TEXTS = [random_ids(40, seed=seed) for seed in range(8)]


def float32_of(model: torch.nn.Module) -> set[str]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kept = {name for name, tensor in tensors if tensor.dtype == torch.float32 and "rotary" not in name}
    return {name.removeprefix("model.") for name in kept if not name.startswith("ropes.")}


def random_with_biases(name: str) -> Any:
    """A model with large selection biases that differ by less than bfloat16 can represent."""
    model_type, overrides = CASES[name]
    model = tiny_model(model_type, **overrides)
    for index, (buffer, values) in enumerate(model.named_buffers()):
        if buffer.endswith("e_score_correction_bias"):
            shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(index))
            values.copy_(30 + 1e-4 * shuffled)
    return model


def routers(model: Transformer) -> list[MixtureOfExperts]:
    return [module for module in model.modules() if isinstance(module, MixtureOfExperts)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*ROUTED, "qwen2-moe", "gpt-2", "llama 3.2, tied"])
def test_float32_parameters_are_those_of_transformers(name: str, dtype: str, tmp_path: Path) -> None:
    import transformers

    exact = random_with_biases(name)
    folder = save(exact, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    ours = llmcli.load(folder, dtype=dtype, device="cpu")
    assert float32_of(ours.model) == float32_of(theirs)
    assert bool(float32_of(theirs)) is (name in ROUTED)
    # Several texts, because rounding sometimes sends a token to another expert, in both implementations.
    our_error = their_error = 0.0
    for ids in TEXTS:
        with torch.inference_mode():
            expected = exact(torch.tensor([ids])).logits[0]
            their_error += float((theirs(torch.tensor([ids])).logits[0].float() - expected).pow(2).mean())
        our_error += float((ours.logits(ids).float() - expected).pow(2).mean())
    assert our_error**0.5 < 1.5 * their_error**0.5
    read = {name: parameter for name, parameter in theirs.state_dict().items() if parameter.dtype == torch.float32}
    for full, values in read.items():
        if "rotary" not in full:
            assert torch.equal(ours.model.get_parameter(full.removeprefix("model.")), values)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantize": "int8"}], ids=str)
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_selection_biases_are_not_rounded_to_bfloat16(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    made = random_with_biases("deepseek v3")
    for parameter, values in made.named_parameters():
        if parameter.endswith("mlp.gate.weight"):
            # All scores are equal, so that only the bias decides.
            values.data.zero_()
    path = write_gguf(made, tmp_path / "model.gguf") if kind == "gguf" else save(made, tmp_path / "model")
    loaded = llmcli.load(path, device="cpu", **options)
    biases = [values for name, values in made.named_buffers() if name.endswith("e_score_correction_bias")]
    found = routers(loaded.model)
    assert len(found) == len(biases) > 0
    for mixture, bias in zip(found, biases, strict=True):
        kept = mixture.gate.e_score_correction_bias
        assert kept is not None
        assert kept.dtype is mixture.gate.weight.dtype is torch.float32
        assert torch.equal(kept, bias)
        config = mixture.config
        groups = bias.view(config.groups, -1).topk(2).values.sum(-1).topk(config.groups_chosen).indices
        eligible = torch.full_like(bias, -torch.inf).view(config.groups, -1)
        eligible[groups] = bias.view(config.groups, -1)[groups]
        expected = eligible.flatten().topk(config.chosen).indices
        chosen, _ = mixture.gate(torch.ones(3, loaded.config.hidden_size, dtype=loaded.model.dtype))
        assert all(set(row.tolist()) == set(expected.tolist()) for row in chosen)


@pytest.mark.parametrize("name", ROUTED)
def test_bytes_of_float32_parameters_are_counted(name: str, tmp_path: Path) -> None:
    folder = save(random_with_biases(name), tmp_path)
    counted = parameter_bytes(meta_model(open_checkpoint(folder).config), {}, torch.bfloat16)
    kept = llmcli.load(folder, dtype="bfloat16", device="cpu").model.named_parameters()
    assert counted == {parameter: values.nbytes for parameter, values in kept}


def test_neurons_of_a_mixture_with_float32_biases_can_be_inspected(tmp_path: Path) -> None:
    loaded = llmcli.load(save(random_with_biases("deepseek v3"), tmp_path), dtype="bfloat16", device="cpu")
    x = torch.randn(4, loaded.config.hidden_size)
    mixture = routers(loaded.model)[0]
    fired = firing(mixture, x[0])
    assert len(fired) == mixture.config.chosen + 1
    expert = fired[0].expert
    assert activations(mixture, x, 0, expert)[0] == pytest.approx(float(fired[0].activations[0]), abs=1e-2)


def test_every_family_keeps_the_float32_parameters_of_its_class(tmp_path: Path) -> None:
    import transformers

    for name in ("mixtral", "qwen3-moe", "olmoe", "gpt-oss", "llama 4", *ROUTED):
        case = next(case for case in CASES if case.startswith(name))
        model_type, overrides = CASES[case]
        model = tiny_model(model_type, **overrides)
        strict = getattr(model, "_keep_in_fp32_modules_strict", None) or set()
        config = open_checkpoint(save(model, tmp_path / case)).config
        promised = {parameter for parameter, one in parameters_of(config).items() if one.float32}
        assert bool(promised) is bool(strict), transformers.__version__
        assert all(any(pattern in parameter for pattern in strict) for parameter in promised)
